"""Calibration rows: some rows of the user's table, as batches that a model runs on and can be judged by.

Shapes: B rows of a batch.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from polymodal.artifact import Model
from polymodal.compress.step import Work
from polymodal.data.dataset import PairDataset
from polymodal.data.feature_rows import FeatureRows
from polymodal.errors import DataError
from polymodal.features import Features
from polymodal.models.clip import Clip
from polymodal.objectives.contrastive import info_nce, siglip
from polymodal.objectives.pairs import belongs
from polymodal.objectives.supervised import target_loss
from polymodal.preprocess import Preprocess
from polymodal.types import Batch, ImageTextBatch

AT_ONCE = 32  # rows of a batch


def batches(work: Work, rows: int) -> Iterator[ImageTextBatch | Batch]:
    """At most `rows` rows of the work's training rows, drawn by its seed, each once.

    Raises:
        DataError: there is none, or one of a table of pairs cannot be read.
    """
    if not len(work.train):
        raise DataError(f"{work.train.source}: wanted calibration rows, got none; give a table with rows to --data")
    order = np.random.default_rng((work.seed, 11)).permutation(len(work.train))[:rows]
    parts = np.array_split(order, -(-len(order) // AT_ONCE))
    if isinstance(work.preprocess, Features):
        table = FeatureRows(work.train, work.preprocess, work.tokenizer, seed=work.seed)
        yield from (table.batch(part) for part in parts)
        return
    if work.tokenizer is None:
        raise DataError(f"{work.train.source}: the model reads texts and its artifact has no tokenizer")
    pairs = PairDataset(work.train, work.tokenizer, work.preprocess, seed=work.seed)
    yield from (pairs.collate([pairs[int(row)] for row in part]) for part in parts)


def losses(work: Work, model: Model, rows: int) -> Iterator[Tensor]:
    """Of each batch of calibration rows the loss () that such a model is trained with; worked out when asked for.

    Of pairs: InfoNCE, or SigLIP's loss where the model has a bias. Of several targets: the sum of their losses.

    Raises:
        DataError: no row has a label, or there are too few pairs to tell one from another.
    """
    labeled = False
    for batch in batches(work, rows):
        if isinstance(model, Clip):
            assert isinstance(batch, ImageTextBatch)
            yield _contrastive(work, model, batch)
            labeled = True
        elif isinstance(batch, Batch) and any(bool(known.any()) for known in batch.known.values()):
            yield _supervised(work, run(work, model, batch), batch)
            labeled = True
    if not labeled:
        targets = work.preprocess.targets if isinstance(work.preprocess, Features) else ()
        wanted = ", ".join(targets) or "none, for the model has no targets"
        raise DataError(
            f"{work.train.source}: no calibration row has a label of any target ({wanted}); give rows with labels, or "
            "judge importance by=activation, which needs none"
        )


def passes(work: Work, model: Model, rows: int) -> Iterator[object]:
    """The model runs on each batch of calibration rows, when asked for; what it says does not matter."""
    return (run(work, model, batch) for batch in batches(work, rows))


def run(work: Work, model: Model, batch: ImageTextBatch | Batch) -> dict[str, Tensor]:
    """Vectors of unit length "image" and "text" (B, D), or the predictions of each target.

    Every token goes through every layer, also where only one is pooled.
    """
    device = next(model.parameters()).device
    if isinstance(model, Clip):
        assert isinstance(batch, ImageTextBatch)
        assert isinstance(work.preprocess, Preprocess)
        pixels = work.preprocess.image.normalize(batch.pixels.to(device))
        image = model.image_projection(model.image_encoder(pixels).pooled)
        text = model.text_projection(model.text_encoder(batch.text.to(str(device))).pooled)
        return {"image": normalize(image, dim=-1), "text": normalize(text, dim=-1)}
    assert isinstance(batch, Batch)
    assert isinstance(work.preprocess, Features)
    predictions: dict[str, Tensor] = model(work.preprocess.normalize(batch.inputs), batch.present).predictions
    return predictions


def _contrastive(work: Work, model: Clip, batch: ImageTextBatch) -> Tensor:
    if len(batch.rows) < 2:
        raise DataError(
            f"{work.train.source}: a single pair says nothing of which text belongs to which picture; wanted two rows "
            "or more"
        )
    said = run(work, model, batch)
    same = belongs(batch.rows, _numbered(batch.text.ids))
    scale = model.log_scale.exp()
    if model.bias is not None:
        return siglip(said["image"], said["text"], scale, model.bias, same)
    return info_nce(said["image"], said["text"], scale, same)


def _numbered(ids: Tensor) -> Tensor:
    """(B,) int64, equal for equal texts."""
    numbers: Tensor = torch.unique(ids, dim=0, return_inverse=True)[1]
    return numbers


def _supervised(work: Work, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
    assert isinstance(work.preprocess, Features)
    targets = work.preprocess.targets
    each = [
        target_loss(target, predictions[name], batch.targets[name], batch.known[name])
        for name, target in targets.items()
    ]
    return torch.stack(each).sum()
