"""A model with several inputs loaded for use: rows of a table in, predictions of every target out.

Shapes: N rows; C outputs of a target; W width of the joint state.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.faults import Fault
from polymodal.data.feature_rows import FeatureRows, columns_of
from polymodal.data.manifest import Manifest
from polymodal.engine.answers import Prediction, read, read_tags, stacked
from polymodal.engine.backends import Precision
from polymodal.engine.backends.choose import AskedBackend, AskedPrecision, open_backend
from polymodal.engine.engine import checksum_of, device_named
from polymodal.engine.progress import progress_bar
from polymodal.errors import ArtifactError, DataError
from polymodal.export.graphs import arrays_of
from polymodal.features import Features, TextInput
from polymodal.models.ensemble import Ensemble
from polymodal.models.multimodal import Multimodal
from polymodal.text import Tokenizer
from polymodal.types import Batch

BATCH_SIZE = 64
Source = str | Path | Manifest | Sequence[Mapping[str, Any]]


class Predicted(NamedTuple):
    predictions: list[dict[str, Prediction]]  # by the target's name, a dictionary a row
    rows: NDArray[np.int64]  # (N,) their numbers in the source, from 1
    faults: list[Fault]  # cells that could not be used and counted as empty, and rows that could not be read
    notes: tuple[str, ...]


class Seen(NamedTuple):
    """What a model says of rows, and what is known of them."""

    outputs: dict[str, Tensor]  # of each target, logits or scaled values (N, C); of a tokens target (N, L, C)
    targets: dict[str, Tensor]  # as `features.Target` says
    known: dict[str, Tensor]
    present: dict[str, NDArray[np.bool_]]  # (N,) by the input's name


class Predictor:
    """Safe to use from several threads at once."""

    def __init__(
        self,
        model: Multimodal | Ensemble,
        tokenizer: Tokenizer | None,
        features: Features,
        *,
        name: str = "model",
        metrics: Mapping[str, Any] | None = None,
        checksum: str | None = None,
        device: str = "auto",
        backend: AskedBackend = "auto",
        precision: AskedPrecision = "auto",
    ) -> None:
        """
        Args:
            name: what errors call it, for instance the folder it came from.
            checksum: names these very weights.
            device: cpu, cuda, cuda:1, mps; auto is the first GPU that torch can use, else the CPU.
            backend, precision: as of `Engine`.

        Raises:
            ConfigError: the device cannot be used, or the backend is not installed or does not know the precision.
        """
        self.name, self.tokenizer, self.features = name, tokenizer, features
        self.metrics, self.checksum = dict(metrics or {}), checksum
        self.device = device_named(device)
        self.model = model.eval()
        # notes: what is not as it was asked for, a precision that this CPU does not know for instance
        self.backend, self.notes = open_backend(
            self.model,
            features,
            backend=backend,
            precision=precision,
            device=self.device,
            checksum=lambda: checksum or checksum_of(model, features),
        )

    @property
    def precision(self) -> Precision:
        """That the backend computes in."""
        return self.backend.precision

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
        rows = self.rows(source)
        parts = self.answers(rows, batch_size=batch_size, progress=progress)
        predictions = [row for part in parts for row in part]
        return Predicted(predictions, np.asarray(rows.source.row_numbers), faults_of(rows), notes_of(rows))

    def answers(
        self, rows: FeatureRows, *, batch_size: int = BATCH_SIZE, progress: bool = False
    ) -> Iterator[list[dict[str, Prediction]]]:
        """`predict`, a batch at a time, so that memory stays flat.

        Raises:
            ArtifactError: the model has no targets.
        """
        self.refuse_without_targets()
        start = 0
        for batch, out in self.stream(rows, batch_size=batch_size, progress=progress):
            places = range(start, start := start + len(batch.rows))
            readings = {name: self._read(name, out[f"logits.{name}"], rows, places) for name in self.features.targets}
            yield [{name: found[nth] for name, found in readings.items()} for nth in range(len(places))]

    def _read(self, name: str, outputs: Tensor, rows: FeatureRows, places: range) -> list[Prediction]:
        target = self.features.targets[name]
        if target.task != "tokens":
            return read(target, outputs)
        text = self.features.inputs[target.text]
        assert isinstance(text, TextInput)
        assert self.tokenizer is not None
        [column] = text.columns
        is_there = column in rows.source.kinds()
        cells = [rows.source.cell(place, column) if is_there else None for place in places]
        return read_tags(target, outputs, cells, self.tokenizer)

    def refuse_without_targets(self) -> None:
        """
        Raises:
            ArtifactError: the model has no targets: it was pre-trained and not fine-tuned.
        """
        if not self.features.targets:
            raise ArtifactError(
                f'"{self.name}" has no targets, it was only pre-trained; fine-tune it: `polymodal fit TABLE --target '
                f"COLUMN model.start={self.name}`"
            )

    def rows(self, source: Source, *, with_targets: bool = False) -> FeatureRows:
        """The rows as this model reads them.

        Args:
            with_targets: read the columns of the targets too, to compare with them.

        Raises:
            DataError: the table cannot be read, or has none of the columns that the model reads.
        """
        given = Manifest.read(source) if isinstance(source, str | Path) else source
        features = self.features if with_targets else self.features.model_copy(update={"targets": {}})
        rows = FeatureRows(given, features, self.tokenizer)
        columns = [column for config in features.inputs.values() for column in columns_of(config)]
        if len(rows) and not set(columns) & set(there := rows.source.kinds()):
            raise DataError(
                f'{rows.source.source}: "{self.name}" reads {", ".join(columns)}; none of them is among the columns '
                f"({', '.join(there)}); rename those that hold the same"
            )
        return rows

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
        for _, out in self.stream(rows, only, batch_size=batch_size, progress=progress):
            for name, values in found.items():
                values.append(out[f"logits.{name}"])
        return {name: stacked(values) for name, values in found.items()}

    def see(self, rows: FeatureRows, *, batch_size: int = BATCH_SIZE, progress: bool = False) -> Seen:
        """What the model says of rows, beside what is known of them.

        Args:
            rows: with targets, see `rows`.
        """
        parts: list[dict[str, dict[str, Tensor]]] = []
        for batch, out in self.stream(rows, batch_size=batch_size, progress=progress):
            outputs = {name: out[f"logits.{name}"] for name in self.features.targets}
            known: dict[str, dict[str, Tensor]] = {"targets": dict(batch.targets), "known": dict(batch.known)}
            parts.append({"outputs": outputs, "present": dict(batch.present), **known})
        whole = {
            kind: {name: stacked([part[kind][name] for part in parts]) for name in parts[0][kind]} for kind in parts[0]
        }
        present = {name: there.numpy() for name, there in whole["present"].items()}
        return Seen(whole["outputs"], whole["targets"], whole["known"], present)

    def embed(self, source: Source, *, batch_size: int = BATCH_SIZE, progress: bool = False) -> NDArray[np.float32]:
        """(N, W) the joint state of every row."""
        stream = self.stream(self.rows(source), batch_size=batch_size, progress=progress)
        vectors: NDArray[np.float32] = np.concatenate([out["state"].numpy() for _, out in stream])
        return vectors

    def stream(
        self,
        rows: FeatureRows,
        only: Sequence[str] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        progress: bool = False,
    ) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """What the model says of each batch of the rows, in their order, see `run`; `only` as in `outputs`."""
        if not len(rows):
            raise DataError(f"{rows.source.source}: there are no rows")
        with progress_bar("predicting", len(rows), shown=progress) as advance:
            for start in range(0, len(rows), batch_size):
                batch = rows.batch(np.arange(start, min(start + batch_size, len(rows))))
                yield batch, self.run(batch, only)
                advance(len(batch.rows))

    def run(self, batch: Batch, only: Sequence[str] | None = None) -> dict[str, Tensor]:
        """What the model says of a batch: `answer.NAME` and `logits.NAME` of each target, and the joint `state`.

        Args:
            only: as in `outputs`.
        """
        present = {
            name: there if only is None or name in only else torch.zeros_like(there)
            for name, there in batch.present.items()
        }
        said = self.backend.run("rows", arrays_of(batch.inputs, present))
        return {name: torch.from_numpy(values) for name, values in said.items()}


def faults_of(rows: FeatureRows) -> list[Fault]:
    """Rows of the source that could not be read, and cells that were looked at so far and count as empty."""
    source = rows.source
    unread = list(source.faults) if isinstance(source, Manifest) else []
    return sorted([*unread, *rows.faults], key=lambda fault: fault.row)


def notes_of(rows: FeatureRows) -> tuple[str, ...]:
    """What was understood in a way that one should know about, of the source and of its columns."""
    source = rows.source
    return (*(source.notes if isinstance(source, Manifest) else ()), *rows.notes)
