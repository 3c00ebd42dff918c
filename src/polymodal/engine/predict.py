"""A model with several inputs loaded for use: rows of a table in, predictions of every target out.

Shapes: N rows; C outputs of a target; W width of the joint state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.faults import Fault
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.engine.engine import device_named
from polymodal.engine.progress import progress_bar
from polymodal.errors import ArtifactError, DataError
from polymodal.features import Features, Target
from polymodal.metrics.supervised import probabilities
from polymodal.models.multimodal import Multimodal, MultimodalOutput
from polymodal.text import Tokenizer
from polymodal.types import Batch

BATCH_SIZE = 64
Source = str | Path | Manifest | Sequence[Mapping[str, Any]]


class Prediction(NamedTuple):
    """What a model says of one target of one row."""

    value: Any  # a class, a number, the labels above a half, or a tag for each word
    probability: float | None  # of a class; None of numbers, labels and tags
    probabilities: dict[str, float] | None  # of every class or label


class Predicted(NamedTuple):
    predictions: list[dict[str, Prediction]]  # by the target's name, a dictionary a row
    faults: list[Fault]  # cells that could not be used and counted as empty
    notes: tuple[str, ...]


class Predictor:
    """Safe to use from several threads at once."""

    def __init__(
        self,
        model: Multimodal,
        tokenizer: Tokenizer | None,
        features: Features,
        *,
        name: str = "model",
        metrics: Mapping[str, Any] | None = None,
        checksum: str | None = None,
        device: str = "auto",
    ) -> None:
        """
        Args:
            name: what errors call it, for instance the folder it came from.
            checksum: names these very weights.
            device: cpu, cuda, cuda:1, mps; auto is the first GPU that torch can use, else the CPU.
        """
        self.name, self.tokenizer, self.features = name, tokenizer, features
        self.metrics, self.checksum = dict(metrics or {}), checksum
        self.device = device_named(device)
        self.model = model.eval().to(self.device)

    def predict(self, source: Source, *, batch_size: int = BATCH_SIZE, progress: bool = False) -> Predicted:
        """Every target of every row.

        Args:
            source: a table, or rows as dictionaries: texts, numbers, paths, bytes, PIL pictures, lists. What a row
                lacks is absent, which the model bears.
            progress: show a bar on stderr if that is a terminal.

        Raises:
            DataError: the table cannot be read, or has none of the columns that the model reads.
            ArtifactError: the model has no targets: it was pre-trained and not fine-tuned.
        """
        if not self.features.targets:
            raise ArtifactError(
                f'"{self.name}" has no targets, it was only pre-trained; fine-tune it: `polymodal fit TABLE --target '
                f"COLUMN model.start={self.name}`"
            )
        rows = self.rows(source)
        outputs = self.outputs(rows, batch_size=batch_size, progress=progress)
        readings = {name: read(target, outputs[name]) for name, target in self.features.targets.items()}
        predictions = [{name: found[row] for name, found in readings.items()} for row in range(len(rows))]
        return Predicted(predictions, rows.faults, tuple(rows.notes))

    def rows(self, source: Source) -> FeatureRows:
        """The rows as this model reads them.

        Raises:
            DataError: the table cannot be read, or has none of the columns that the model reads.
        """
        given = Manifest.read(source) if isinstance(source, str | Path) else source
        return FeatureRows(given, self.features, self.tokenizer)

    def outputs(
        self,
        rows: FeatureRows,
        *,
        only: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        progress: bool = False,
    ) -> dict[str, Tensor]:
        """Logits or scaled values (N, C) of each target; of a tokens target (N, L, C), padded by zeros.

        Args:
            only: inputs that the model may look at; None: all that a row has.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in self.features.targets}
        for out in self._run(rows, only, batch_size, progress):
            for name, values in found.items():
                values.append(out.predictions[name].float().cpu())
        return {name: _stacked(values) for name, values in found.items()}

    def embed(self, source: Source, *, batch_size: int = BATCH_SIZE, progress: bool = False) -> NDArray[np.float32]:
        """(N, W) the joint state of every row."""
        states = [out.fused.pooled for out in self._run(self.rows(source), None, batch_size, progress)]
        vectors: NDArray[np.float32] = torch.cat(states).float().cpu().numpy()
        return vectors

    def _run(
        self, rows: FeatureRows, only: Sequence[str] | None, batch_size: int, progress: bool
    ) -> Iterator[MultimodalOutput]:
        if not len(rows):
            raise DataError(f"{rows.source.source}: there are no rows")
        with progress_bar("predicting", len(rows), shown=progress) as advance:
            for start in range(0, len(rows), batch_size):
                places = np.arange(start, min(start + batch_size, len(rows)))
                with torch.inference_mode():
                    yield self.run(rows.batch(places), only)
                advance(len(places))

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> MultimodalOutput:
        """What the model says of a batch; `only` as in `outputs`."""
        inputs = {name: _to(given, self.device) for name, given in self.features.normalize(batch.inputs).items()}
        present = {
            name: (there if only is None or name in only else torch.zeros_like(there)).to(self.device)
            for name, there in batch.present.items()
        }
        out: MultimodalOutput = self.model(inputs, present)
        return out


def _to(given: Any, device: torch.device) -> Any:
    if isinstance(given, Tensor):
        return given.to(device)
    return type(given)(*(None if part is None else part.to(device) for part in given))


def _stacked(values: list[Tensor]) -> Tensor:
    if values[0].ndim == 2:
        return torch.cat(values)
    longest = max(value.shape[1] for value in values)
    return torch.cat([torch.nn.functional.pad(value, (0, 0, 0, longest - value.shape[1])) for value in values])


# ---------------------------------------------------------------------------------------------------------------------
# From logits to answers


def read(target: Target, outputs: Tensor) -> list[Prediction]:
    """The answers of N rows from logits or scaled values (N, C)."""
    if target.task == "regression":
        return [Prediction(value, None, None) for value in (outputs[:, 0] * target.std + target.mean).tolist()]
    shares = torch.from_numpy(probabilities(target.task, outputs / target.temperature))
    readers: Mapping[str, Callable[[Target, Tensor], Prediction]] = {"multilabel": _labels, "tokens": _tags}
    return [readers.get(target.task, _class)(target, row) for row in shares]


def _class(target: Target, shares: Tensor) -> Prediction:
    best = int(shares.argmax())
    named = dict(zip(target.classes, shares.tolist(), strict=True))
    return Prediction(target.classes[best], named[target.classes[best]], named)


def _labels(target: Target, shares: Tensor) -> Prediction:
    named = dict(zip(target.classes, shares.tolist(), strict=True))
    return Prediction([label for label, share in named.items() if share >= 0.5], None, named)


def _tags(target: Target, shares: Tensor) -> Prediction:
    return Prediction([target.classes[place] for place in shares.argmax(-1).tolist()], None, None)
