"""Rows of a table -> batches of a model with several inputs and targets.

What is no file is prepared once, column by column; files are read when a batch wants them. Training, evaluation and
serving go the same way: a row gives the same numbers in each. Shapes: B rows.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polymodal.data.augment import Augment
from polymodal.data.cell_files import PictureFiles
from polymodal.data.faults import Fault
from polymodal.data.input_rows import (
    AugmentedTextRows,
    Draw,
    InputRows,
    PictureRows,
    RecordRows,
    RegionRows,
    SeriesRows,
    SoundRows,
    TextRows,
)
from polymodal.data.manifest import Manifest
from polymodal.data.source import PlainRows, Rows, Trouble
from polymodal.data.targets import TargetRows, encode_target
from polymodal.data.texts import word_labels
from polymodal.errors import DataError
from polymodal.features import (
    AudioInput,
    Features,
    ImageInput,
    InputConfig,
    RecordInput,
    RegionsInput,
    SeriesInput,
    Target,
    TextInput,
)
from polymodal.text import Tokenizer
from polymodal.types import Batch, Input


class FeatureRows:
    """Batches of a manifest's rows, or of plain Python rows.

    A cell that is empty, or in a column that the source lacks, leaves its input absent, or its target unknown. One that
    cannot be used does so too, and is in `faults`.

    Attributes:
        notes: what was understood in a way that one should know about.
    """

    def __init__(
        self,
        source: Manifest | PlainRows | Sequence[Mapping[str, Any]],
        features: Features,
        tokenizer: Tokenizer | None = None,
        augment: Augment | None = None,
        *,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        """
        Args:
            source: a manifest, or rows as dictionaries by the columns' names.
            tokenizer: of all text inputs.
            augment: of pictures and texts, for training; drawn from (seed, epoch, row) alone.
            strict: raise the first fault.

        Raises:
            DataError: there is a text input and no tokenizer; or strict, and a cell cannot be used.
        """
        self.source = source if isinstance(source, Manifest | PlainRows) else PlainRows(source)
        self.features, self.tokenizer, self.augment, self.seed = features, tokenizer, augment, seed
        self.notes: list[str] = []
        self._rows = Rows(self.source)
        self._trouble = Trouble(self.source, strict)
        self._inputs = {
            name: self._input(config, partial(self._draw, nth))
            for nth, (name, config) in enumerate(features.inputs.items())
        }
        self._targets = {name: self._target(name, target) for name, target in features.targets.items()}
        self._note_missing()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def faults(self) -> list[Fault]:
        """Of the cells that were looked at so far, in the order of the rows."""
        return self._trouble.sorted()

    def open_files(self, epochs: int = 1, progress: bool = True) -> list[Fault]:
        """Read every file once, so that all faults are known before training, and kept where there is room.

        Without it files are read when a batch wants them; what worker processes find wrong stays with them.

        Args:
            epochs: how often each row will be asked for; above 1 pictures of a table may go into the cache on disk.

        Returns:
            All faults.
        """
        for rows in self._inputs.values():
            files = getattr(rows, "files", None)
            if isinstance(files, PictureFiles):
                files.open_all(progress, epochs)
            elif files is not None:
                files.open_all(progress)
        return self.faults

    def batch(self, places: ArrayLike, epoch: int = 0, *, only: Collection[str] | None = None) -> Batch:
        """The rows at these places, padded to the longest of them.

        Args:
            places: (B,) from 0, in any order.
            epoch: which augmentation is drawn.
            only: inputs that are wanted; None: all. The others are not read.
        """
        chosen = np.asarray(places, np.int64)
        inputs: dict[str, Input] = {}
        present: dict[str, Tensor] = {}
        targets: dict[str, Tensor] = {}
        known: dict[str, Tensor] = {}
        for name, rows in self._inputs.items():
            if only is None or name in only:
                inputs[name], present[name] = rows.batch(chosen, epoch)
        for name, values in self._targets.items():
            targets[name], known[name] = values.batch(chosen)
        numbers = torch.from_numpy(np.asarray(self.source.row_numbers)[chosen].astype(np.int64))
        return Batch(inputs, present, targets, known, numbers)

    def _input(self, config: InputConfig, draw: Draw) -> InputRows:
        rows, trouble = self._rows, self._trouble
        match config:
            case ImageInput():
                return PictureRows(rows, config, self.augment, self._captions(), draw, trouble)
            case TextInput():
                return self._text(config, draw)
            case RecordInput():
                record = RecordRows(rows, config, trouble)
                self.notes.extend(record.notes)
                return record
            case SeriesInput():
                return SeriesRows(rows, config, trouble)
            case AudioInput():
                return SoundRows(rows, config, trouble)
            case RegionsInput():
                return RegionRows(rows, config, trouble)

    def _text(self, config: TextInput, draw: Draw) -> InputRows:
        tokenizer, augment = self._tokenizer(), self.augment
        labelled = any(self.features.inputs[target.text] is config for target in self._token_targets())
        if augment is not None and (augment.text.dropout or augment.text.swap or config.pick):
            if not labelled:
                return AugmentedTextRows(self._rows, config, tokenizer, augment, draw)
            self.notes.append(f"{config.columns[0]}: words have labels and are left as they stand, not augmented")
        return TextRows(self._rows, config, tokenizer)

    def _token_targets(self) -> list[Target]:
        return [target for target in self.features.targets.values() if target.task == "tokens"]

    def _target(self, name: str, target: Target) -> TargetRows:
        if target.task != "tokens":
            return encode_target(self._rows, target, self._trouble)
        config, rows = self.features.inputs[target.text], self._inputs[target.text]
        assert isinstance(config, TextInput)
        assert isinstance(rows, TextRows)
        return word_labels(self._rows, target, config.columns[0], rows.texts, self._tokenizer(), self._trouble)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise DataError(f"{self.source.source}: the model reads texts; give its tokenizer")
        return self.tokenizer

    def _captions(self) -> list[str]:
        texts = [config for config in self.features.inputs.values() if isinstance(config, TextInput)]
        return [column for config in texts for column in config.columns]

    def _draw(self, nth: int, epoch: int, place: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, int(self.source.row_numbers[place]), nth))

    def _note_missing(self) -> None:
        for kind, parts in (("input", self.features.inputs), ("target", self.features.targets)):
            for name, config in parts.items():
                columns = columns_of(config)
                if lacking := [column for column in columns if column not in self._rows.there]:
                    what = "absent in every row" if kind == "input" else "not known"
                    what = what if len(lacking) == len(columns) else "read without them"
                    self.notes.append(f'no column {", ".join(lacking)}: {kind} "{name}" is {what}')


def columns_of(config: InputConfig | Target) -> tuple[str, ...]:
    """The columns that an input or a target reads."""
    match config:
        case TextInput(columns=columns) | Target(columns=columns):
            return columns
        case RecordInput(numbers=numbers, categories=categories):
            return (*(column.name for column in numbers), *(column.name for column in categories))
        case _:
            return (config.column,)
