from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from polymodal.data import Manifest, read
from polymodal.data.augment import Augment, ImageAugment
from polymodal.data.dataset import Pair, PairDataset
from polymodal.data.decode import open_image, to_pixels
from polymodal.errors import DataError
from polymodal.types import ImageTextBatch
from tests.data.files import write_picture, write_text
from tests.tiny import preprocess, tokenizer

AUGMENT = Augment(image=ImageAugment(scale=(0.3, 1), flip=0.5, hue=0.2))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for i in range(8):
        write_picture(tmp_path / f"{i}.png", i)
    rows = "".join(f'{{"image": "{i}.png", "captions": ["a {i}", "b {i}", "c {i}"]}}\n' for i in range(8))
    return read(write_text(tmp_path / "t.jsonl", rows))


def dataset(manifest: Manifest, augment: Augment | None = AUGMENT, seed: int = 0) -> PairDataset:
    return PairDataset(manifest, tokenizer(), preprocess(), augment, seed)


def seen(pair: Pair) -> tuple[bytes, str, int]:
    return pair.pixels.numpy().tobytes(), pair.caption, pair.row


def test_a_pair_is_the_picture_in_use_and_one_of_its_captions(manifest: Manifest) -> None:
    pair = dataset(manifest, None)[3]
    image = open_image("3.png", manifest.root)
    assert torch.equal(pair.pixels, to_pixels(image, preprocess().image))
    assert pair.caption in manifest.captions(3)
    assert pair.row == 4


def test_draws_depend_on_seed_epoch_and_row_alone(manifest: Manifest) -> None:
    one, other = dataset(manifest), dataset(manifest)
    torch.manual_seed(0)
    first = [seen(one[row]) for row in range(8)]
    torch.manual_seed(1)
    assert [seen(other[row]) for row in reversed(range(8))] == first[::-1], "order and global state do not matter"
    assert seen(dataset(manifest.select([5, 2]))[0]) == first[5], "nor does the selection"
    one.set_epoch(1)
    assert [seen(one[row]) for row in range(8)] != first
    one.set_epoch(0)
    assert [seen(one[row]) for row in range(8)] == first
    assert [seen(dataset(manifest, seed=1)[row]) for row in range(8)] != first


def test_every_caption_gets_its_turn(manifest: Manifest) -> None:
    pairs = dataset(manifest, None)
    captions = set()
    for epoch in range(20):
        pairs.set_epoch(epoch)
        captions.add(pairs[0].caption)
    assert captions == {"a 0", "b 0", "c 0"}


def test_workers_that_live_on_see_the_new_epoch(manifest: Manifest) -> None:
    pairs = dataset(manifest)
    loader: DataLoader[Pair] = DataLoader(
        pairs, batch_size=3, num_workers=1, collate_fn=pairs.collate, persistent_workers=True
    )
    for epoch in range(2):
        pairs.set_epoch(epoch)
        batches: list[ImageTextBatch] = list(loader)
        assert torch.equal(batches[0].pixels, torch.stack([pairs[row].pixels for row in range(3)]))
        assert torch.cat([batch.rows for batch in batches]).tolist() == list(range(1, 9))


def test_a_batch_is_uint8_with_trimmed_text(manifest: Manifest) -> None:
    pairs = dataset(manifest)
    batch = pairs.collate([pairs[0], pairs[1]])
    assert (batch.pixels.dtype, tuple(batch.pixels.shape)) == (torch.uint8, (2, 3, 16, 16))
    assert batch.text.ids.shape == batch.text.mask.shape
    assert batch.text.mask[:, -1].any(), "no column is padding only"


def test_faulty_rows_are_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    manifest = read(write_text(tmp_path / "t.csv", "image,caption\na.png,  \ngone.png,dog\n"))
    pairs = dataset(manifest)
    with pytest.raises(DataError, match=r"t\.csv: row 1, caption: has no caption; `polymodal check .* --fix clean`"):
        pairs[0]
    with pytest.raises(
        DataError, match=r"t\.csv: row 2, image: .*gone\.png: there is no such file; .*`polymodal check"
    ):
        pairs[1]


def test_a_manifest_without_pictures_or_texts_is_refused(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", "name,n\nsome words,1\nother words,2\n")
    with pytest.raises(
        DataError, match=r"no picture column was found; name it by image \(there are: name \(text\), n "
    ):
        dataset(read(table))
    write_picture(tmp_path / "f/cat/a.png")
    with pytest.raises(DataError, match="no text column was found; name it by text"):
        dataset(read(tmp_path / "f"))
