"""Pairs of a manifest for training: one picture and one of its captions.

Which caption, and every augmentation, is drawn from (seed, epoch, row) alone: resuming in the middle of an epoch, other
workers and another order change nothing. Shapes: B pairs, S side of the model's picture.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from polymodal.data.augment import Augment, augment_image, augment_text, canvas, choose_caption, decoded_side
from polymodal.data.decode import as_tensor, open_image
from polymodal.data.manifest import Manifest
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from polymodal.types import ImageTextBatch, Text


class Pair(NamedTuple):
    pixels: Tensor  # (3, S, S) uint8
    caption: str
    row: int  # number in the source, from 1


class Pictures(Protocol):
    """Gives a row's picture as `augment.canvas` leaves it: decoded each time, or from the cache on disk."""

    def picture(self, row: int) -> Image.Image: ...


class DecodedPictures:
    """Pictures decoded from their files each time that they are asked for."""

    def __init__(self, manifest: Manifest, preprocess: ImagePreprocess, augment: Augment | None) -> None:
        self.manifest = manifest
        self.preprocess = preprocess
        self.augment = augment

    def picture(self, row: int) -> Image.Image:
        """Raises:
        DataError: the picture cannot be read; the message names the row.
        """
        augment = self.augment.image if self.augment else None
        try:
            side = decoded_side(self.preprocess, augment)
            image = open_image(self.manifest.image_reference(row), self.manifest.root, side)
        except DataError as error:
            where = self.manifest.where(row, self.manifest.image or "image")
            remedy = f"`polymodal check {self.manifest.source} --fix clean` leaves such rows out"
            raise DataError(f"{where}: {error}; {remedy}") from None
        return canvas(image, self.preprocess, augment)


class PairDataset(Dataset[Pair]):
    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Callable[[Sequence[str], TextPreprocess], Text],
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        pictures: Pictures | None = None,
    ) -> None:
        """Pairs of all rows.

        Args:
            tokenizer: texts -> Text, used by `collate`.
            augment: None gives the picture as in use, and the caption by a random choice among the row's.
            pictures: where pictures come from; decoded from their files if it is not given.

        Raises:
            DataError: the manifest has no pictures or no texts.
        """
        if manifest.image is None or not manifest.text:
            wanted, option = ("picture", "image") if manifest.image is None else ("text", "text")
            found = ", ".join(f"{column.name} ({column.modality})" for column in manifest.columns)
            raise DataError(
                f"{manifest.source}: no {wanted} column was found; name it by {option} (there are: {found})"
            )
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.augment = augment
        self.seed = seed
        self.pictures = pictures or DecodedPictures(manifest, preprocess.image, augment)
        # In shared memory, because workers that outlive an epoch hold a copy of this object.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's draws come next, also to workers that are already running."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> Pair:
        return self.pair(row, int(self._epoch))

    def pair(self, row: int, epoch: int) -> Pair:
        """The pair of a row as it is drawn in an epoch.

        Raises:
            DataError: the row has no caption, or its picture cannot be read.
        """
        number = self.manifest.row_number(row)
        captions = self.manifest.captions(row)
        if not captions:
            where = self.manifest.where(row, self.manifest.text[0])
            raise DataError(
                f"{where}: has no caption; `polymodal check {self.manifest.source} --fix clean` leaves such rows out"
            )
        rng = np.random.default_rng((self.seed, epoch, number))
        text = (self.augment or Augment()).text
        caption = augment_text(choose_caption(captions, text, rng), text, rng)
        picture = self.pictures.picture(row)
        if self.augment is not None:
            picture = augment_image(picture, captions, self.preprocess.image, self.augment.image, rng)
        return Pair(as_tensor(picture), caption, number)

    def collate(self, pairs: Sequence[Pair]) -> ImageTextBatch:
        """Pixels (B, 3, S, S) uint8, tokenized captions, row numbers (B,)."""
        return ImageTextBatch(
            pixels=torch.stack([pair.pixels for pair in pairs]),
            text=self.tokenizer([pair.caption for pair in pairs], self.preprocess.text),
            rows=torch.tensor([pair.row for pair in pairs], dtype=torch.int64),
        )
