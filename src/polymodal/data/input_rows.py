"""Inputs of a batch's rows, by kind: what `features` says of a column, done to its cells.

Each has `batch(places, epoch)` -> the input of these rows, and (B,) whether a row has it. Shapes as in `types`.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from polymodal.data import sound
from polymodal.data.augment import Augment, augment_image, augment_text, choose_caption
from polymodal.data.cell_files import Files, PictureFiles, array_bytes
from polymodal.data.faults import CellError
from polymodal.data.regions import RegionFile, read_regions
from polymodal.data.series import read_series
from polymodal.data.source import Rows, Trouble
from polymodal.data.texts import Texts, joined
from polymodal.data.values import as_lists, as_numbers, as_strings, scaled
from polymodal.features import (
    FIRST,
    MISSING,
    UNSEEN,
    AudioInput,
    ImageInput,
    RecordInput,
    RegionsInput,
    SeriesInput,
    TextInput,
)
from polymodal.text import Tokenizer
from polymodal.types import Input, Record, Regions, Series, Text

Places = NDArray[np.int64]
Draw = Callable[[int, int], np.random.Generator]  # of an epoch and a place, whatever the order of the rows


class InputRows(Protocol):
    def batch(self, places: Places, epoch: int) -> tuple[Input, Tensor]: ...


class RecordRows:
    def __init__(self, rows: Rows, config: RecordInput, trouble: Trouble) -> None:
        count = len(rows)
        self.numbers = np.zeros((count, len(config.numbers)), np.float32)
        self.missing = np.ones((count, len(config.numbers)), bool)
        self.categories = np.zeros((count, len(config.categories)), np.int64)
        self.notes: list[str] = []
        for place, number in enumerate(config.numbers):
            column = rows.column(number.name)
            values, refused = as_numbers(column)
            trouble.cells(refused, number.name, "not-a-number", column, "is no finite number, so it counts as missing")
            self.missing[:, place] = np.isnan(values)
            self.numbers[:, place] = scaled(values, number.mean, number.std)
        for place, category in enumerate(config.categories):
            strings = as_strings(rows.column(category.name))
            codes = pc.index_in(strings, pa.array(category.values, pa.string())).fill_null(-1).to_numpy() + FIRST
            codes[codes < FIRST] = UNSEEN
            codes[strings.is_null().to_numpy()] = MISSING
            self.categories[:, place] = codes
            if unseen := int((codes == UNSEEN).sum()):
                example = strings[int((codes == UNSEEN).argmax())].as_py()
                self.notes.append(
                    f'{category.name}: {unseen} rows have a value unseen in training, as "{example[:60]}"'
                )

    def batch(self, places: Places, epoch: int = 0) -> tuple[Record, Tensor]:
        missing, categories = self.missing[places], self.categories[places]
        present = (~missing).any(1) | (categories != MISSING).any(1)
        arrays = (self.numbers[places], missing, categories)
        return Record(*map(torch.from_numpy, arrays)), torch.from_numpy(present)


class TextRows:
    """Texts, tokenized once."""

    def __init__(self, rows: Rows, config: TextInput, tokenizer: Tokenizer) -> None:
        self.texts = Texts(joined(rows, config), tokenizer, config.preprocess)

    def batch(self, places: Places, epoch: int = 0) -> tuple[Text, Tensor]:
        return self.texts.batch(places), torch.from_numpy(self.texts.present[places])


class AugmentedTextRows:
    """Texts that are different in every epoch."""

    def __init__(self, rows: Rows, config: TextInput, tokenizer: Tokenizer, augment: Augment, draw: Draw) -> None:
        self._lists = as_lists(rows.column(config.columns[0])) if config.pick else None
        self._joined = joined(rows, config)
        self._tokenizer, self._preprocess, self._augment, self._draw = tokenizer, config.preprocess, augment.text, draw

    def batch(self, places: Places, epoch: int = 0) -> tuple[Text, Tensor]:
        drawn = pa.chunked_array([pa.array([self._text(place, epoch) for place in places.tolist()], pa.string())])
        texts = Texts(drawn, self._tokenizer, self._preprocess)
        return texts.batch(np.arange(len(places))), torch.from_numpy(texts.present)

    def _text(self, place: int, epoch: int) -> str | None:
        rng = self._draw(epoch, place)
        captions = [self._joined[place].as_py()] if self._lists is None else self._lists[place]
        given = [caption for caption in captions or () if caption and caption.strip()]
        return augment_text(choose_caption(given, self._augment, rng), self._augment, rng) if given else None


class PictureRows:
    def __init__(
        self,
        rows: Rows,
        config: ImageInput,
        augment: Augment | None,
        captions: Sequence[str],
        draw: Draw,
        trouble: Trouble,
    ) -> None:
        """
        Args:
            captions: columns of texts that an augmentation must leave true.
        """
        self.files = PictureFiles(rows, config.column, config.preprocess, augment, trouble)
        self._rows, self._preprocess, self._augment, self._draw = rows, config.preprocess, augment, draw
        self._captions = captions

    def batch(self, places: Places, epoch: int = 0) -> tuple[Tensor, Tensor]:
        side = self._preprocess.size
        # NumPy, for copies of this size are not worth torch's threads, which wait for each other on a busy machine.
        pixels = np.zeros((len(places), 3, side, side), np.uint8)
        present = np.zeros(len(places), bool)
        if get_worker_info() is None:  # a worker is one thread; there are several of them
            self.files.read_ahead(places.tolist())
        for nth, place in enumerate(places.tolist()):
            picture = self.files(place)
            if picture is None:
                continue
            if self._augment is not None:
                said = [str(self._rows.cell(place, name)) for name in self._captions]
                rng = self._draw(epoch, place)
                picture = augment_image(picture, said, self._preprocess, self._augment.image, rng)
            pixels[nth], present[nth] = np.asarray(picture).transpose(2, 0, 1), True
        return torch.from_numpy(pixels), torch.from_numpy(present)


class SeriesRows:
    def __init__(self, rows: Rows, config: SeriesInput, trouble: Trouble) -> None:
        self.files = Files(rows, config.column, self._read, array_bytes, trouble)
        self._config, self._root = config, rows.source.root

    def _read(self, given: Any) -> NDArray[np.float32]:
        config, steps = self._config, read_series(given, self._root)
        if steps.shape[1] != len(config.means):
            reason = f"has {steps.shape[1]} channels, the training rows have {len(config.means)}"
            raise CellError("the series", "wrong-width", reason, "give the same channels, or leave it out")
        steps = steps[: config.max_length]
        return np.where(np.isnan(steps), np.nan, scaled(steps, config.means, config.stds)).astype(np.float32)

    def batch(self, places: Places, epoch: int = 0) -> tuple[Series, Tensor]:
        found = [self.files(place) for place in places.tolist()]
        for place, steps in zip(places.tolist(), found, strict=True):
            if steps is not None and (gaps := int(np.isnan(steps).sum())):
                reason = f"has {gaps} values that are missing or not finite; the channel's mean stands for them"
                self.files.trouble.add(place, self.files.column, "not-finite", reason, "fill them in", "warning")
        return _padded([None if one is None else np.nan_to_num(one) for one in found], len(self._config.means))


class SoundRows:
    """Steps of sounds: log-mel frames, or samples. A silent one counts as absent."""

    def __init__(self, rows: Rows, config: AudioInput, trouble: Trouble) -> None:
        self.files = Files(rows, config.column, self._read, array_bytes, trouble)
        self._config, self._root = config, rows.source.root

    def _read(self, given: Any) -> NDArray[np.float32]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sound.SilentSound)
            samples = sound.read_sound(given, self._config.preprocess, self._root)
        if sound.is_silent(samples):
            raise CellError("the sound", "silent", "is silent", "record it again, or leave it out")
        return sound.steps(samples, self._config.preprocess)

    def batch(self, places: Places, epoch: int = 0) -> tuple[Series, Tensor]:
        return _padded([self.files(place) for place in places.tolist()], self._config.preprocess.channels)


def _padded(found: Sequence[NDArray[np.float32] | None], channels: int) -> tuple[Series, Tensor]:
    lengths = np.array([0 if one is None else len(one) for one in found])
    values = np.zeros((len(found), max(1, lengths.max(initial=0)), channels), np.float32)
    for row, one in enumerate(found):
        if one is not None:
            values[row, : len(one)] = one
    mask = np.arange(values.shape[1]) < lengths[:, None]
    return Series(torch.from_numpy(values), torch.from_numpy(mask)), torch.from_numpy(lengths > 0)


class RegionRows:
    def __init__(self, rows: Rows, config: RegionsInput, trouble: Trouble) -> None:
        self.files = Files(rows, config.column, self._read, _region_bytes, trouble)
        self._config, self._root = config, rows.source.root

    def _read(self, given: Any) -> RegionFile:
        config, found = self._config, read_regions(given, self._root)
        classes = 0 if found.classes is None else found.classes.shape[1]
        for what, wanted, got in (
            ("features", config.width, found.features.shape[1]),
            ("classes", config.classes, classes),
        ):
            if got != wanted and wanted:
                reason = f"has {what} of width {got}, the training rows have {wanted}"
                raise CellError("the regions", "wrong-width", reason, "make them by the same detector")
        kept = slice(config.max_regions)
        return RegionFile(
            found.features[kept], found.boxes[kept], None if found.classes is None else found.classes[kept]
        )

    def batch(self, places: Places, epoch: int = 0) -> tuple[Regions, Tensor]:
        found = [self.files(place) for place in places.tolist()]
        (features, mask), present = _padded([one and one.features for one in found], self._config.width)
        (boxes, _), _ = _padded([one and one.boxes for one in found], 4)
        classes = None
        if self._config.classes:
            (classes, _), _ = _padded([one and one.classes for one in found], self._config.classes)
        return Regions(features, boxes, mask, classes), present


def _region_bytes(regions: RegionFile) -> int:
    return sum(array.nbytes for array in regions if array is not None)
