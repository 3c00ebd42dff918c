"""What is worked out once, before the first step, when towers are locked: their vectors, and how they could meet."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from polymodal.data.augment import Augment
from polymodal.data.dataset import PairDataset
from polymodal.data.pixel_cache import pictures_for
from polymodal.encoders import for_use
from polymodal.errors import ConfigError
from polymodal.models.clip import Clip
from polymodal.train.batches import caption_key
from polymodal.train.build import training_captions
from polymodal.train.closed_form import class_names, solve
from polymodal.train.console import bar, say
from polymodal.train.data import EachCaption, EachPicture
from polymodal.train.locked import Known, work_out
from polymodal.train.prepare import Prepared
from polymodal.train.recipe import ClosedForm, NewModel
from polymodal.train.rows import Places


def vectors_of_pictures(prepared: Prepared) -> Known:
    """What the locked image tower says of every picture of training and validation."""
    model, preprocess = prepared.built.model, prepared.built.preprocess.image
    device = next(model.parameters()).device
    tower = for_use(model.image_encoder)

    def vectors() -> Iterator[tuple[Tensor, Tensor]]:
        seen: set[int] = set()
        for manifest, numbers in zip((prepared.train, prepared.val), prepared.numbers, strict=True):
            first = {int(number): row for row, number in reversed(list(enumerate(numbers))) if int(number) not in seen}
            if manifest is None or not first:
                continue
            seen.update(first)
            pictures = pictures_for(manifest, preprocess, None, cache="never")
            each = EachPicture(pictures, list(first.values()), list(first))
            for batch in DataLoader(each, batch_size=64, collate_fn=lambda batch: batch):
                yield batch.pictures, tower(preprocess.normalize(batch.pixels.to(device))).pooled

    return _once("looking at pictures with the locked tower", len(set().union(*prepared.numbers)), model, vectors())


def vectors_of_captions(prepared: Prepared) -> Known:
    """What the locked text tower says of every caption of training and validation."""
    model, preprocess = prepared.built.model, prepared.built.preprocess.text
    captions = sorted({text for part in (prepared.train, prepared.val) if part for text in training_captions(part)})
    each = EachCaption(captions, prepared.built.tokenizer, preprocess)

    def vectors() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in DataLoader(each, batch_size=256, collate_fn=lambda batch: batch):
            yield batch.captions, model.text_encoder(batch.text).pooled

    return _once("reading captions with the locked tower", len(captions), model, vectors())


def meet(prepared: Prepared, images: Known | None, texts: Known | None) -> None:
    """Solve for the projections, where the recipe asks for it.

    Raises:
        ConfigError: a tower is not locked, or does not always see the same.
    """
    model, recipe = prepared.built.model, prepared.recipe.model
    closed_form = recipe.init.closed_form if isinstance(recipe, NewModel) else None
    if closed_form is None:
        return
    if images is None or texts is None:
        raise ConfigError(
            "model.init.closed_form needs towers that are locked and always see the same: set "
            "trainer.freeze=[image_encoder, text_encoder], trainer.cache_locked=true and no data.augment"
        )
    pictures, rows, places = np.unique(prepared.numbers[0], return_index=True, return_inverse=True)
    seen = [images(torch.from_numpy(pictures)), *_copies(prepared, closed_form, rows)]
    say("solving for the projections between the locked towers")
    keys = {
        (int(place), caption_key(caption))
        for row, place in enumerate(places)
        for caption in prepared.train.captions(row)
    }
    owners, captions = torch.tensor(sorted(keys)).T
    # A copy of a picture has the picture's captions.
    owners = torch.cat([owners + copy * len(pictures) for copy in range(len(seen))])
    vectors = texts(captions).repeat(len(seen), 1)
    solve(model, torch.cat(seen), vectors, owners, closed_form, _classes(prepared, closed_form))


def _copies(prepared: Prepared, closed_form: ClosedForm, rows: Places) -> Iterator[Tensor]:
    """(N, W) of every augmented copy of the pictures that the rows (N,) show."""
    model, preprocess, seed = prepared.built.model, prepared.built.preprocess, prepared.recipe.trainer.seed
    tower, augment = for_use(model.image_encoder), Augment(image=closed_form.augment)
    pairs = PairDataset(prepared.train, prepared.built.tokenizer, preprocess, augment, seed)

    def vectors(copy: int) -> Iterator[tuple[Tensor, Tensor]]:
        for places in torch.arange(len(rows)).split(64):
            pixels = torch.stack([pairs.pair(int(rows[place]), copy).pixels for place in places])
            yield places, tower(preprocess.image.normalize(pixels)).pooled

    for copy in range(closed_form.copies):
        known = _once("looking at augmented copies", len(rows), model, vectors(copy))
        yield known(torch.arange(len(rows)))


@torch.no_grad()
def _classes(prepared: Prepared, closed_form: ClosedForm) -> Tensor | None:
    """(K, V) of the names of the image tower's classes."""
    if closed_form.class_names is None:
        return None
    model, built = prepared.built.model, prepared.built
    names = class_names(closed_form.class_names, getattr(model.config.image, "classes", 0))
    vectors: Tensor = model.text_encoder(built.tokenizer(names, built.preprocess.text)).pooled
    return vectors


def _once(label: str, total: int, model: Clip, vectors: Iterator[tuple[Tensor, Tensor]]) -> Known:
    model.eval()
    say(f"{label}: once, {total:,} in all")
    with bar() as progress:
        task = progress.add_task(label, total=total)
        return work_out(vectors, lambda count: progress.advance(task, count))
