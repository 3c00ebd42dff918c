"""An artifact loaded for use: pictures and texts in, unit vectors, cosines and names out.

Shapes: N items; D width of the shared space; I images; T texts; C labels.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.engine import pictures as pictures_
from polymodal.engine.backends import Precision
from polymodal.engine.backends.choose import AskedBackend, AskedPrecision, open_backend
from polymodal.engine.pictures import Picture
from polymodal.engine.progress import progress_bar
from polymodal.engine.templates import fill
from polymodal.engine.vector_cache import VectorCache, content_of
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.models.clip import Clip
from polymodal.preprocess import Preprocess
from polymodal.text import Tokenizer

Vectors = NDArray[np.float32]
BATCH_SIZE = 64
TEXTS_AT_ONCE = 4096  # tokenized together, then brought into batches by their number of tokens


class Guess(NamedTuple):
    label: str
    probability: float  # 0 to 1


class ItemFault(NamedTuple):
    place: int  # in what was given, from 0
    reason: str


@dataclass(frozen=True)
class Embedded:
    """What became of a list in which some items may be bad."""

    vectors: Vectors  # (good items, D)
    rows: NDArray[np.int64]  # (good items,), the place of each in what was given
    faults: list[ItemFault]


class Engine:
    """Safe to use from several threads at once."""

    def __init__(
        self,
        model: Clip,
        tokenizer: Tokenizer | None,
        preprocess: Preprocess,
        *,
        name: str = "model",
        metrics: dict[str, Any] | None = None,
        checksum: str | None = None,
        device: str = "auto",
        backend: AskedBackend = "auto",
        precision: AskedPrecision = "auto",
        cache: VectorCache | None = None,
    ) -> None:
        """
        Args:
            name: what errors call it, for instance the folder it came from.
            checksum: names these very weights; without one it is computed when it is asked for.
            device: cpu, cuda, cuda:1, mps; auto is the first GPU that torch can use, else the CPU.
            backend: what computes; auto is the one that a short measurement finds to be the fastest here, torch for a
                model of fewer than 5 million weights.
            precision: of the products inside the model; the vectors that come out are float32 always. auto is bfloat16
                where the CPU has instructions for it, else float32.
            cache: vectors of pictures and texts that were seen before are taken from it.

        Raises:
            ConfigError: the device cannot be used, or the backend is not installed or does not know the precision.
        """
        self.name = name
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.metrics = metrics or {}
        self.device = device_named(device)
        self.width = model.config.shared_width  # D
        self.scale = model.log_scale.exp().item()  # cosines are multiplied by it before a softmax or sigmoid
        self.bias = None if model.bias is None else model.bias.item()  # SigLIP's
        self._checksum = checksum
        self.model = model.eval()
        # notes: what is not as it was asked for, a precision that this CPU does not know for instance
        self.backend, self.notes = open_backend(
            self.model,
            preprocess,
            backend=backend,
            precision=precision,
            device=self.device,
            checksum=lambda: self.checksum,
        )
        self.cache = cache

    @property
    def precision(self) -> Precision:
        """That the backend computes in."""
        return self.backend.precision

    @cached_property
    def checksum(self) -> str:
        """SHA-256 that names these weights and settings, for caches."""
        if self._checksum is not None:
            return self._checksum
        return checksum_of(self.model, self.preprocess)

    @overload
    def embed(
        self,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        root: str | Path = ".",
        progress: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> Vectors: ...

    @overload
    def embed(
        self,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        root: str | Path = ".",
        progress: bool = False,
        on_error: Literal["report"],
    ) -> Embedded: ...

    def embed(
        self,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        root: str | Path = ".",
        progress: bool = False,
        on_error: Literal["raise", "report"] = "raise",
    ) -> Vectors | Embedded:
        """Unit vectors (N, D), float32, in the order given; equal items are computed once.

        Args:
            images: paths, bytes of files, `data:` URIs, PIL pictures or (H, W, 3) uint8 arrays, mixed as you like.
            texts: the other kind; give one of the two.
            root: the folder against which relative paths resolve.
            progress: draw a bar on stderr when that is a terminal.
            on_error: "raise" stops at the first bad item; "report" gives an `Embedded`: the good ones, and the faults.

        Raises:
            DataError: an item is bad (its index is named).
            ArtifactError: the model has no tokenizer for texts, or gives vectors that are not numbers.
        """
        if (images is None) == (texts is None):
            raise ConfigError("embed: give images=[...] or texts=[...], one of the two")
        if batch_size < 1:
            raise ConfigError(f"embed: batch_size must be at least 1, got {batch_size}")
        kind, items = ("picture", images) if images is not None else ("text", texts)
        if items is None or isinstance(items, str | bytes | Path):
            raise DataError(f"embed: wanted a list of {kind}s, got one {type(items).__name__}: put it into [ ]")
        with progress_bar(f"embedding {kind}s", len(items), shown=progress) as advance:
            work = self._remembered(items, images is None, batch_size, Path(root), advance)
            vectors = np.full((len(items), self.width), np.nan, np.float32)
            faults: list[ItemFault] = []
            for places, found in work:
                if isinstance(found, DataError):
                    if on_error == "raise":
                        raise DataError(f"embed: {kind} {places[0]} of {len(items)}: {found}")
                    faults += [ItemFault(place, str(found)) for place in places]
                else:
                    vectors[places] = found
        if on_error == "raise":
            return vectors
        rows = np.setdiff1d(np.arange(len(items)), [fault.place for fault in faults])
        return Embedded(vectors[rows], rows, sorted(faults))

    def similarity(self, images: Sequence[Picture], texts: Sequence[str]) -> Vectors:
        """Cosines (I, T), -1 to 1. `scale` times them are the logits that the model was trained with."""
        return self.embed(images=images) @ self.embed(texts=texts).T

    @overload
    def classify(
        self, images: list[Any] | tuple[Any, ...], labels: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[list[Guess]]: ...

    @overload
    def classify(
        self, images: Picture, labels: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[Guess]: ...

    def classify(
        self, images: Any, labels: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[Guess] | list[list[Guess]]:
        """Labels with their probabilities, the likeliest first; a list of such lists when a list of pictures is given.

        Softmax over the labels of scale · cosine; for a model with a bias (SigLIP) the sigmoid of scale · cosine +
        bias, each label by itself, so that no label or several may be likely.

        Args:
            images: one picture, or a list or tuple of them.
            templates: sentences with {} for the label; None: those of the label's language (`engine/templates.py`).
        """
        many = isinstance(images, list | tuple)
        classes = self.class_vectors(labels, templates)
        ranked = self.rank(self.embed(images=images if many else [images]), labels, classes)
        return ranked if many else ranked[0]

    def rank(self, vectors: Vectors, labels: Sequence[str], classes: Vectors) -> list[list[Guess]]:
        """`classify` for vectors that are there already: pictures (I, D) and `class_vectors` (C, D) of the labels."""
        chances = probabilities(torch.from_numpy(vectors @ classes.T).double(), self.scale, self.bias)
        return [
            [Guess(labels[place], row[place].item()) for place in row.argsort(descending=True, stable=True).tolist()]
            for row in chances
        ]

    def class_vectors(self, labels: Sequence[str], templates: Sequence[str] | None = None) -> Vectors:
        """Unit vectors (C, D): for each label the normalized mean of the normalized vectors of its sentences.

        Source of the order (normalize, mean, normalize): openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.

        Raises:
            ConfigError: there is no label, one is empty or comes twice, or a template has no {}.
        """
        if isinstance(labels, str) or not len(labels):
            raise ConfigError(f"labels: wanted a list of names, got {labels!r}")
        for label in labels:
            if not isinstance(label, str) or not label.strip():
                raise ConfigError(f"labels: wanted names, got {label!r}")
            if list(labels).count(label) > 1:
                raise ConfigError(f'labels: "{label}" comes twice, which would halve its probability; write it once')
        sentences = [fill(label, templates) for label in labels]
        vectors = self.embed(texts=[sentence for filled in sentences for sentence in filled])
        starts = np.cumsum([0, *(len(filled) for filled in sentences)])
        means = np.stack([vectors[start:end].mean(0) for start, end in pairwise(starts)])
        unit: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit

    def _remembered(
        self, items: Sequence[Any], are_texts: bool, batch_size: int, root: Path, advance: Callable[[int], None]
    ) -> Iterator[tuple[list[int], Vectors | DataError]]:
        """For each different item the places where it stands, and its vector, from the cache if there is one."""
        places = _places_of_equals([item if are_texts else pictures_.identity(item) for item in items])
        keys = [self._key(items[same[0]], are_texts, root) for same in places] if self.cache is not None else []
        known = self.cache.get(key for key in keys if key is not None) if self.cache is not None else {}
        for key, same in zip(keys, places, strict=False):
            if key in known:
                yield same, known[key]
                advance(len(same))
        new = [nth for nth in range(len(places)) if not known or keys[nth] not in known]
        unique = [items[places[nth][0]] for nth in new]
        work = self._embed_texts(unique, batch_size) if are_texts else self._embed_images(unique, batch_size, root)
        for batch in work:
            for nth, found in batch:
                yield places[new[nth]], found
            if self.cache is not None:
                named = ((keys[new[nth]], found) for nth, found in batch if not isinstance(found, DataError))
                self.cache.put({key: vector for key, vector in named if key is not None})
            advance(sum(len(places[new[nth]]) for nth, _ in batch))

    def _key(self, item: Any, is_text: bool, root: Path) -> bytes | None:
        """Names the vector of an item by the model and the item's content; None where it is not kept."""
        content = item.encode("utf-8", "surrogatepass") if is_text and isinstance(item, str) else None
        if not is_text:
            content = content_of(item, root)
        if content is None:
            return None
        inputs = f"text {self.preprocess.text}" if is_text else f"picture {self.preprocess.image}"
        computed = f"{self.checksum} {self.backend.name} {self.precision} {inputs}"
        return hashlib.sha256(computed.encode() + b"\0" + content).digest()

    def _embed_images(
        self, images: Sequence[Picture], batch_size: int, root: Path
    ) -> Iterator[list[tuple[int, Vectors | DataError]]]:
        def work(picture: Picture) -> pictures_.Pixels:
            return pictures_.decode(picture, self.preprocess.image, root)

        for batch in pictures_.decoded(images, work, batch_size):
            done: list[tuple[int, Vectors | DataError]] = []
            done += [(place, found) for place, found in batch if isinstance(found, DataError)]
            good = [(place, pixels) for place, pixels in batch if not isinstance(pixels, DataError)]
            if good:
                vectors = self._vectors("image", {"pixels": np.stack([pixels for _, pixels in good])})
                done += zip([place for place, _ in good], vectors, strict=True)
            yield done

    def _embed_texts(self, texts: Sequence[Any], batch_size: int) -> Iterator[list[tuple[int, Vectors | DataError]]]:
        good: list[int] = []
        bad: list[tuple[int, Vectors | DataError]] = []
        for place, text in enumerate(texts):
            if isinstance(text, str) and text.strip():
                good.append(place)
            else:
                wanted = "the text is empty" if isinstance(text, str) else f"wanted a str, got {type(text).__name__}"
                bad.append((place, DataError(wanted)))
        yield bad
        good.sort(key=lambda place: len(texts[place]))
        for start in range(0, len(good), TEXTS_AT_ONCE):
            part = np.array(good[start : start + TEXTS_AT_ONCE])
            ids, mask = self._tokens([texts[place] for place in part])
            lengths = mask.sum(1).clip(min=1)
            order = lengths.argsort(kind="stable")  # texts of like length share a batch: little or no padding
            for low in range(0, len(order), batch_size):
                rows = order[low : low + batch_size]
                longest = lengths[rows[-1]]
                vectors = self._vectors("text", {"ids": ids[rows, :longest], "mask": mask[rows, :longest]})
                yield list(zip(part[rows].tolist(), vectors, strict=True))

    def _tokens(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids and mask, (B, L), padded on the right."""
        if self.tokenizer is None:
            raise ArtifactError(f'"{self.name}" has no tokenizer: it can embed pictures, not texts')
        text = self.tokenizer(texts, self.preprocess.text)
        return text.ids.numpy(), text.mask.numpy()

    def _vectors(self, graph: str, arrays: dict[str, NDArray[Any]]) -> Vectors:
        """(B, D), of unit length."""
        vectors = np.asarray(self.backend.run(graph, arrays)["vectors"], np.float32)
        if not np.isfinite(vectors).all():
            raise ArtifactError(
                f'"{self.name}" gives vectors that are not numbers: its weights are damaged or its training diverged; '
                "use an earlier checkpoint"
            )
        # Again in float32: bfloat16 knows a length of 1 to within half a percent only.
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        return unit


def probabilities(cosines: Tensor, scale: float, bias: float | None) -> Tensor:
    """(I, C) from cosines (I, C): softmax over C, or with a bias the sigmoid of each."""
    logits = scale * cosines
    return logits.softmax(-1) if bias is None else (logits + bias).sigmoid()


def _places_of_equals(keys: list[Any]) -> list[list[int]]:
    """For each different key, in order of first appearance, the places where it stands."""
    places: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return list(places.values())


def checksum_of(model: Any, preprocess: Any) -> str:
    """SHA-256 of a model's config and weights, and of what its inputs go through."""
    digest = hashlib.sha256(repr((model.config.to_dict(), preprocess.to_dict())).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def device_named(asked: str) -> torch.device:
    if asked == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f'device "{asked}" cannot be used: {error}; `polymodal doctor` says what this machine has'
        ) from None
    return device
