"""Rows -> batches: numbers that are right, absences that are told, faults that are named, and one way for all rows."""

import io
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from polymodal.data import Manifest, read
from polymodal.data.augment import Augment, ImageAugment, TextAugment
from polymodal.data.cell_files import PictureFiles
from polymodal.data.decode import open_image, to_pixels
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.pixel_cache import CachedPictures
from polymodal.data.source import PlainRows
from polymodal.data.texts import first_pieces
from polymodal.data.values import join
from polymodal.errors import DataError
from polymodal.features import (
    AudioInput,
    CategoryColumn,
    Features,
    ImageInput,
    NumberColumn,
    RecordInput,
    RegionsInput,
    SeriesInput,
    Target,
    TextInput,
)
from polymodal.preprocess import AudioPreprocess, ImagePreprocess, TextPreprocess
from polymodal.types import Batch, Record, Regions, Series, Text
from tests import tiny
from tests.data.files import noise, picture_bytes, write_picture, write_text
from tests.data.tables import table

SMALL = ImagePreprocess(size=8)
SHORT = TextPreprocess(max_length=12)
RECORD = RecordInput(
    numbers=(NumberColumn(name="age", mean=40, std=10), NumberColumn(name="dose", mean=0, std=1)),
    categories=(CategoryColumn(name="ward", values=("A", "B")),),
)


def wave(samples: Any, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples, np.float32), rate, format="WAV")
    return buffer.getvalue()


def record_of(rows: list[dict[str, Any]]) -> tuple[Record, list[bool], FeatureRows]:
    found = FeatureRows(rows, Features(inputs={"record": RECORD}))
    batch = found.batch(range(len(rows)))
    record = batch.inputs["record"]
    assert isinstance(record, Record)
    return record, batch.present["record"].tolist(), found


def all_kinds(folder: Path) -> tuple[Manifest, Features]:
    """A table of every kind of input and target, with holes."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        write_picture(folder / f"{i}.png", i)
        np.save(folder / f"{i}.npy", rng.normal(size=(i + 2, 3)))
        np.savez(folder / f"{i}.npz", features=rng.normal(size=(i + 1, 5)), boxes=np.tile([0, 0, 1, 1], (i + 1, 1)))
        (folder / f"{i}.wav").write_bytes(wave(rng.normal(size=1000 * (i + 1)) / 10))
        row: dict[str, Any] = {
            "picture": f"{i}.png", "steps": f"{i}.npy", "boxes": f"{i}.npz", "sound": f"{i}.wav",
            "words": ["dog", "on", "the", "beach", "狗"][: i + 1], "tags": list("OPOOP")[: i + 1],
            "title": "a dog " * (i + 1), "age": 10 * i, "ward": "AB"[i % 2],
            "y": ["no", "yes"][i % 2], "z": i / 2, "answers": ["a"] * i + ["b"] * (10 - i),
        }  # fmt: skip
        hole = ["picture", "steps", "boxes", "sound", "title", "y"][i]
        rows.append({name: value for name, value in row.items() if name != hole})
    features = Features(
        inputs={
            "image": ImageInput(column="picture", preprocess=SMALL),
            "series": SeriesInput(column="steps", means=(0, 0, 0), stds=(1, 1, 1)),
            "regions": RegionsInput(column="boxes", width=5),
            "audio": AudioInput(column="sound", preprocess=AudioPreprocess(rate=8000, mels=10)),
            "text": TextInput(columns=("words",), preprocess=SHORT),
            "more": TextInput(columns=("title", "ward"), preprocess=SHORT),
            "record": RECORD,
        },
        targets={
            "y": Target(columns=("y",), task="binary", classes=("no", "yes")),
            "z": Target(columns=("z",), task="regression", mean=1, std=2),
            "vqa": Target(columns=("answers",), task="soft", classes=("a", "b", "c")),
            "ner": Target(columns=("tags",), task="tokens", classes=("O", "P")),
        },
    )
    return table(folder, rows), features


def flat(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor by a name."""
    found = {}
    for part in ("inputs", "present", "targets", "known"):
        for name, value in getattr(batch, part).items():
            for place, one in enumerate(value if isinstance(value, tuple) else (value,)):
                if one is not None:
                    found[f"{part}.{name}.{place}"] = one
    return found | {"rows": batch.rows}


def same_but_padding(alone: torch.Tensor, together: torch.Tensor, row: int) -> None:
    """`alone` is row `row` of `together`, which may be padded."""
    kept = together[row]
    inside = kept[tuple(slice(0, size) for size in alone.shape[1:])]
    assert torch.equal(alone[0], inside)
    assert together[row].count_nonzero() == alone[0].count_nonzero(), "behind it there is nothing"


# ---------------------------------------------------------------------------------------------------------------------
# Every kind together


def test_a_row_alone_is_the_row_in_a_batch(tmp_path: Path) -> None:
    manifest, features = all_kinds(tmp_path)
    rows = FeatureRows(manifest, features, tiny.tokenizer(), strict=True)
    together = flat(rows.batch([5, 0, 1, 2, 3, 4]))
    for place in range(6):
        for name, alone in flat(rows.batch([place])).items():
            same_but_padding(alone, together[name], [5, 0, 1, 2, 3, 4].index(place))
    assert together["rows"].tolist() == [6, 1, 2, 3, 4, 5]


def test_each_hole_is_an_absent_input_or_an_unknown_target(tmp_path: Path) -> None:
    manifest, features = all_kinds(tmp_path)
    rows = FeatureRows(manifest, features, tiny.tokenizer())
    batch = rows.batch(range(6))
    for hole, name in enumerate(("image", "series", "regions", "audio")):
        assert batch.present[name].tolist() == [i != hole for i in range(6)]
        given = batch.inputs[name]
        for one in [given] if isinstance(given, torch.Tensor) else filter(torch.is_tensor, given):
            assert not one[hole].any()
    assert batch.present["more"].all(), "one of its two columns is filled"
    assert batch.known["y"].tolist() == [True] * 5 + [False]
    assert batch.targets["z"].tolist() == [(i / 2 - 1) / 2 for i in range(6)]
    assert batch.targets["vqa"][3].tolist() == pytest.approx([0.9, 1.0, 0.0])
    assert rows.faults == []
    assert rows.notes == ['no column dose: input "record" is read without them']


def test_plain_rows_give_what_the_table_gives(tmp_path: Path) -> None:
    manifest, features = all_kinds(tmp_path)
    names = manifest.kinds()
    plain = [{name: manifest.cell(row, name) for name in names} for row in range(6)]
    plain[1]["picture"] = Image.open(tmp_path / "1.png")
    plain[2]["picture"] = (tmp_path / "2.png").read_bytes()
    plain[2]["steps"] = np.load(tmp_path / "2.npy")
    plain[4]["boxes"] = dict(np.load(tmp_path / "4.npz"))
    plain[5]["sound"] = (tmp_path / "5.wav").read_bytes()
    plain[3]["picture"] = tmp_path / "3.png"
    served = FeatureRows(PlainRows(plain, tmp_path), features, tiny.tokenizer(), strict=True).batch(range(6))
    trained = FeatureRows(manifest, features, tiny.tokenizer()).batch(range(6))
    for (name, one), other in zip(flat(served).items(), flat(trained).values(), strict=True):
        assert torch.equal(one, other), name


def test_a_table_without_any_of_the_columns_has_every_input_absent_and_every_target_unknown(tmp_path: Path) -> None:
    _, features = all_kinds(tmp_path)
    rows = FeatureRows([{"other": 1}, {"other": 2}], features, tiny.tokenizer(), strict=True)
    batch = rows.batch([0, 1])
    assert not any(present.any() for present in batch.present.values())
    assert not any(known.any() for known in batch.known.values())
    assert 'no column picture: input "image" is absent in every row' in rows.notes
    assert 'no column z: target "z" is not known' in rows.notes
    assert batch.inputs["image"].shape == (2, 3, 8, 8)  # type: ignore[union-attr]


def test_it_goes_to_other_processes(tmp_path: Path) -> None:
    manifest, features = all_kinds(tmp_path)
    rows = FeatureRows(manifest, features, tiny.tokenizer())
    rows.open_files(epochs=1, progress=False)
    other = pickle.loads(pickle.dumps(rows))
    for (name, one), two in zip(flat(other.batch([4, 2])).items(), flat(rows.batch([4, 2])).values(), strict=True):
        assert torch.equal(one, two), name


# ---------------------------------------------------------------------------------------------------------------------
# Records and texts


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(-1e3, 1e3), st.floats(1e-2, 1e3))
def test_scaled_numbers_come_back(values: list[float], mean: float, std: float) -> None:
    record = RecordInput(numbers=(NumberColumn(name="n", mean=mean, std=std),))
    rows = FeatureRows([{"n": value} for value in values], Features(inputs={"r": record}))
    numbers = rows.batch(range(len(values))).inputs["r"][0]
    expected = [max(-1e6, min(1e6, (value - mean) / std)) for value in values]
    assert numbers[:, 0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_codes_say_missing_unseen_and_known() -> None:
    record, present, rows = record_of([{"ward": "A"}, {"ward": "B"}, {"ward": "C"}, {"ward": ""}, {"age": 50}, {}])
    assert record.categories[:, 0].tolist() == [2, 3, 1, 0, 0, 0]
    assert present == [True, True, True, False, True, False]
    assert record.numbers[4].tolist() == [1.0, 0.0]
    assert record.missing[4].tolist() == [False, True]
    assert rows.notes[0] == 'ward: 1 rows have a value unseen in training, as "C"'


def test_numbers_that_are_none_count_as_missing_and_are_faults() -> None:
    values = [{"age": value, "ward": "A"} for value in ("nan", "inf", "old", None, "1e300")]
    record, _, rows = record_of(values)
    assert record.missing[:, 0].tolist() == [True, True, True, True, False]
    assert torch.isfinite(record.numbers).all()
    assert [str(fault) for fault in rows.faults] == [
        f'row {row}, age: "{value}" is no finite number, so it counts as missing; correct the cell or leave it empty'
        for row, value in ((2, "inf"), (3, "old"))
    ]


def texts_of(rows: list[dict[str, Any]], config: TextInput, **options: Any) -> tuple[list[str], Batch]:
    found = FeatureRows(rows, Features(inputs={"text": config}), tiny.tokenizer(), **options)
    batch = found.batch(range(len(rows)))
    text = batch.inputs["text"]
    assert isinstance(text, Text)
    return [tiny.tokenizer().decode(ids[mask]) for ids, mask in zip(text.ids, text.mask, strict=True)], batch


def test_texts_of_several_columns_are_lines_with_names() -> None:
    config = TextInput(columns=("title", "place"), preprocess=TextPreprocess(max_length=50))
    rows: list[dict[str, Any]] = [
        {"title": "a dog", "place": "beach"},
        {"title": "a dog"},
        {"title": " ", "place": None},
    ]
    said, batch = texts_of(rows, config)
    expected = [
        tiny.tokenizer()([text], config.preprocess).ids[0].tolist()
        for text in ("title: a dog\nplace: beach", "title: a dog")
    ]
    ids = batch.inputs["text"][0].tolist()
    assert ids[0] == expected[0]
    assert ids[1][: len(expected[1])] == expected[1]
    assert batch.present["text"].tolist() == [True, True, False]
    assert said[2] == ""


def test_a_text_of_a_hundred_thousand_characters_is_cut_as_the_tokenizer_cuts_it() -> None:
    long = "a dog on the beach and 一只狗在沙滩上 " * 4000
    config = TextInput(columns=("t",), preprocess=SHORT)
    _, batch = texts_of([{"t": long}, {"t": "dog"}], config)
    assert len(long) > 100_000
    assert batch.inputs["text"][0][0].tolist() == tiny.tokenizer()([long], SHORT).ids[0].tolist()


def test_of_several_captions_the_first_is_read_and_in_training_any() -> None:
    config = TextInput(columns=("c",), pick=True, preprocess=SHORT)
    rows: list[dict[str, Any]] = [{"c": ["a dog", "a cat"]}] * 20
    said, _ = texts_of(rows, config)
    assert len(set(said)) == 1
    drawn, batch = texts_of(rows, config, augment=Augment())
    assert len(set(drawn)) == 2
    assert texts_of(rows, config, augment=Augment())[0] == drawn, "drawn from seed, epoch and row alone"
    assert texts_of(rows, config, augment=Augment(), seed=1)[0] != drawn
    assert batch.present["text"].all()
    assert len(set(texts_of(rows, config, augment=Augment(text=TextAugment(choice="first")))[0])) == 1


def test_texts_need_a_tokenizer() -> None:
    with pytest.raises(DataError, match="rows: the model reads texts; give its tokenizer"):
        FeatureRows([{"t": "a"}], Features(inputs={"text": TextInput(columns=("t",))}))


# ---------------------------------------------------------------------------------------------------------------------
# Labels of words


@pytest.mark.parametrize(
    "words", [["a", "dog", "sleeps"], ["一", "只", "狗", "a", "dog"], ["", "bicycle", "xyzzy", "?"]]
)
def test_the_first_piece_of_a_word_is_where_its_text_starts(words: list[str]) -> None:
    tokenizer = tiny.tokenizer()
    text = join(words) or ""
    offsets = tokenizer.backend.encode(text).offsets
    start = 0
    for word, piece in zip(words, first_pieces(words, tokenizer, 100), strict=True):
        start = text.index(word, start)
        if piece >= 0:
            begin, end = offsets[piece]
            assert begin <= start < end or text[begin] == " "
        else:
            shared = any(begin < start < end for begin, end in offsets)
            assert word == "" or shared or not any(begin <= start < end for begin, end in offsets), (
                "no piece of its own"
            )
        start += len(word)


def test_labels_stand_at_first_pieces_and_are_cut_with_the_text() -> None:
    features = Features(
        inputs={"text": TextInput(columns=("w",), preprocess=TextPreprocess(max_length=6))},
        targets={"ner": Target(columns=("t",), task="tokens", classes=("O", "P"))},
    )
    rows = FeatureRows(
        [
            {"w": ["dog", "xyzzy", "dog"], "t": ["P", "O", "P"]},
            {"w": ["dog", "cat"], "t": ["P"]},
            {"w": ["dog", "cat"], "t": ["P", "new"]},
            {"w": ["dog"] * 20, "t": ["P"] * 20},
        ],
        features,
        tiny.tokenizer(),
    )
    batch = rows.batch(range(4))
    text, labels, known = batch.inputs["text"], batch.targets["ner"], batch.known["ner"]
    assert isinstance(text, Text)
    assert labels.shape == known.shape == text.ids.shape
    first = first_pieces(["dog", "xyzzy", "dog"], tiny.tokenizer(), 6)
    assert labels[0][known[0]].tolist() == [label for label, piece in zip((1, 0, 1), first, strict=True) if piece >= 0]
    assert not known[0, 0], "the special token"
    assert not known[1].any()
    assert known[2].sum() == 1
    assert 1 <= known[3].sum() <= 5
    assert [str(fault) for fault in rows.faults] == [
        "row 2, t: has 1 labels for 2 words, so they are not known; give each word one label",
        'row 3, t: has the label "new", which no training row has; it is not known; correct it or leave it empty',
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_pictures_are_those_of_the_decoder(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 3)
    rows = FeatureRows(
        table(tmp_path, [{"image": "a.png"}]), Features(inputs={"i": ImageInput(column="image", preprocess=SMALL)})
    )
    pixels = rows.batch([0]).inputs["i"]
    assert torch.equal(pixels[0], to_pixels(open_image(tmp_path / "a.png"), SMALL))


def test_a_picture_that_many_rows_show_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.png", 3)
    write_picture(tmp_path / "b.png", 4)
    opened: list[Any] = []

    def open_and_tell(given: Any, root: Path, side: int | None) -> Image.Image:
        opened.append(given)
        return open_image(given, root, side)

    monkeypatch.setattr("polymodal.data.cell_files.open_image", open_and_tell)
    manifest = table(tmp_path, [{"image": name} for name in ["a.png", "b.png"] * 10])
    rows = FeatureRows(manifest, Features(inputs={"i": ImageInput(column="image", preprocess=SMALL)}))
    rows.open_files(progress=False)
    rows.batch(range(20))
    assert sorted(opened) == ["a.png", "b.png"]


def test_a_batch_of_pictures_is_decoded_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)  # nobody passes alone

    def open_together(given: Any, root: Path, side: int | None) -> Image.Image:
        both.wait()
        return open_image(given, root, side)

    monkeypatch.setattr("polymodal.data.cell_files.open_image", open_together)
    monkeypatch.setattr("polymodal.data.cell_files.os.cpu_count", lambda: 2)
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", number)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n and no more")
    names = ["0.png", "1.png", None, "bad.png", "2.png", "0.png"]
    features = Features(inputs={"i": ImageInput(column="image", preprocess=SMALL)})
    rows = FeatureRows([{"image": name and str(tmp_path / name)} for name in names], features)
    batch = rows.batch(range(6))
    pixels = batch.inputs["i"]
    assert isinstance(pixels, torch.Tensor)
    assert batch.present["i"].tolist() == [True, True, False, False, True, True]
    assert [fault.kind for fault in rows.faults] == ["unreadable"]
    for row, number in ((0, 0), (1, 1), (4, 2), (5, 0)):
        wanted = to_pixels(open_image(tmp_path / f"{number}.png"), SMALL)
        assert torch.equal(pixels[row], wanted)


@pytest.mark.parametrize("broken", [False, True])
def test_pictures_come_from_the_cache_on_disk_when_that_is_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setattr("polymodal.data.pixel_cache.worth_caching", lambda *args: (True, ""))
    for i in range(3):
        write_picture(tmp_path / f"{i}.png", i)
    if broken:
        (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n and no more")
    names: list[str | None] = ["0.png", None, "1.png", "2.png"]
    manifest = table(tmp_path, [{"image": name, "n": 1} for name in names])
    features = Features(inputs={"i": ImageInput(column="image", preprocess=SMALL)})
    rows, plain = FeatureRows(manifest, features), FeatureRows(manifest, features)
    faults = rows.open_files(epochs=5, progress=False)
    files = rows._inputs["i"].files  # type: ignore[attr-defined]
    assert isinstance(files, PictureFiles)
    assert isinstance(files._cached, CachedPictures)
    one, two = rows.batch(range(4)), plain.batch(range(4))
    assert torch.equal(one.inputs["i"], two.inputs["i"])  # type: ignore[arg-type]
    assert one.present["i"].tolist() == two.present["i"].tolist() == [True, False, not broken, True]
    assert [fault.row for fault in faults] == [fault.row for fault in plain.faults] == ([3] if broken else [])


def test_augmentation_is_drawn_from_seed_epoch_and_row(tmp_path: Path) -> None:
    for i in range(2):
        write_picture(tmp_path / f"{i}.png", i)
    manifest = table(tmp_path, [{"image": f"{i}.png"} for i in range(2)])
    rows = FeatureRows(
        manifest,
        Features(inputs={"i": ImageInput(column="image", preprocess=SMALL)}),
        augment=Augment(image=ImageAugment(scale=(0.2, 1))),
    )
    first, again, other = rows.batch([0, 1]), rows.batch([1, 0]), rows.batch([0, 1], epoch=1)
    assert torch.equal(first.inputs["i"], again.inputs["i"].flip(0))  # type: ignore[union-attr, arg-type]
    assert not torch.equal(first.inputs["i"], other.inputs["i"])  # type: ignore[arg-type]


def test_what_cannot_be_read_is_a_fault_and_absent(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"<html>404</html>")
    (tmp_path / "bad.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt ")
    (tmp_path / "silent.wav").write_bytes(wave(np.zeros(4000)))
    good: dict[str, Any] = {"features": [[1, 2, 3, 4, 5]], "boxes": [[0, 0, 1, 1]]}
    rows: list[dict[str, Any]] = [
        {"picture": "bad.png", "sound": "bad.wav", "steps": [[1, 2]], "boxes": good | {"features": [[1, 2]]}},
        {
            "picture": "gone.png",
            "sound": "silent.wav",
            "steps": [[1, None, 3]],
            "boxes": good | {"boxes": [[0, 0, 2, 1]]},
        },
    ]
    _, features = all_kinds(tmp_path)
    kept = Features(inputs={name: features.inputs[name] for name in ("image", "audio", "series", "regions")})
    found = FeatureRows(PlainRows(rows, tmp_path), kept)
    batch = found.batch([0, 1])
    assert {name: present.tolist() for name, present in batch.present.items()} == {
        "image": [False, False], "audio": [False, False], "series": [False, True], "regions": [False, False],
    }  # fmt: skip
    assert torch.isfinite(batch.inputs["series"][0]).all()
    assert [(fault.row, fault.column, fault.kind, fault.severity) for fault in found.faults] == [
        (1, "picture", "not-a-picture", "error"),
        (1, "sound", "unreadable", "error"),
        (1, "steps", "wrong-width", "error"),
        (1, "boxes", "wrong-width", "error"),
        (2, "picture", "missing", "error"),
        (2, "sound", "silent", "error"),
        (2, "steps", "not-finite", "warning"),
        (2, "boxes", "box-outside", "error"),
    ]
    said = {fault.kind: str(fault) for fault in found.faults}
    assert said["not-a-picture"].startswith("row 1, picture: is not a picture (it looks like a web page); leave it out")
    assert said["silent"] == "row 2, sound: is silent; record it again, or leave it out"
    assert said["not-finite"].startswith(
        "row 2, steps: has 1 values that are missing or not finite; the channel's mean"
    )
    assert said["box-outside"].startswith(
        "row 2, boxes: has boxes up to 2 and no image_w and image_h; save boxes as shares"
    )
    assert said["wrong-width"].startswith(
        "row 1, boxes: has features of width 2, the training rows have 5; make them by"
    )
    found.batch([0, 1])
    assert len(found.faults) == 8, "each once"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"picture": "gone.png"}, "rows: row 1, picture: there is no such file; correct the path"),
        ({"steps": [[1, 2]]}, "rows: row 1, steps: has 2 channels, the training rows have 3; give the same channels"),
        ({"picture": 3}, "rows: row 1, picture: "),
    ],
)
def test_strict_raises_the_first_fault(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    _, features = all_kinds(tmp_path)
    kept = Features(inputs={name: features.inputs[name] for name in ("image", "series")})
    with pytest.raises(DataError, match=message):
        FeatureRows(PlainRows([row], tmp_path), kept, strict=True).batch([0])


def test_memory_stays_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymodal.data.cell_files.MEMORY", 3 * 8 * 8 * 3)
    for i in range(6):
        write_picture(tmp_path / f"{i}.png", i)
    manifest = table(tmp_path, [{"image": f"{i}.png"} for i in range(6)])
    rows = FeatureRows(manifest, Features(inputs={"i": ImageInput(column="image", preprocess=SMALL)}))
    rows.open_files(progress=False)
    files = rows._inputs["i"].files  # type: ignore[attr-defined]
    assert len(files._kept) == 3
    assert rows.batch(range(6)).present["i"].all()


def test_struct_cells_of_hugging_face_are_read() -> None:
    cells: list[dict[str, Any]] = [
        {"image": {"bytes": picture_bytes(1), "path": None}},
        {"image": [picture_bytes(2)]},
        {"image": noise(3)},
    ]
    rows = FeatureRows(cells, Features(inputs={"i": ImageInput(column="image", preprocess=SMALL)}), strict=True)
    pixels = rows.batch([0, 1, 2]).inputs["i"]
    for row, seed in enumerate((1, 2, 3)):
        assert torch.equal(pixels[row], to_pixels(noise(seed), SMALL))  # type: ignore[arg-type]


def test_a_csv_is_read_as_jsonl_is(tmp_path: Path) -> None:
    manifest = read(write_text(tmp_path / "t.csv", "age,dose,ward\n50,,A\nNA,1.0,B\n"))
    batch = FeatureRows(manifest, Features(inputs={"record": RECORD}), strict=True).batch([0, 1])
    record, _, _ = record_of([{"age": 50, "ward": "A"}, {"dose": 1, "ward": "B"}])
    for one, two in zip(batch.inputs["record"], record, strict=True):
        assert torch.equal(one, two)


def test_boxes_and_masks_of_regions(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "boxes": {
                "features": np.ones((40, 5)),
                "boxes": np.tile([0, 0, 1, 1], (40, 1)),
                "cls_prob": np.ones((40, 2)),
            }
        },
        {},
    ]
    config = RegionsInput(column="boxes", width=5, classes=2, max_regions=7)
    regions = FeatureRows(rows, Features(inputs={"r": config}), strict=True).batch([0, 1]).inputs["r"]
    assert isinstance(regions, Regions)
    assert regions.features.shape == (2, 7, 5)
    assert regions.classes is not None
    assert regions.classes.shape == (2, 7, 2)
    assert regions.mask.sum(1).tolist() == [7, 0]


def test_series_are_scaled_by_the_training_rows() -> None:
    config = SeriesInput(column="s", means=(1, 10), stds=(2, 5), max_length=2)
    rows = FeatureRows([{"s": [[1, 15], [3, 10], [9, 9]]}, {"s": [[1, 10]]}], Features(inputs={"s": config}))
    series = rows.batch([0, 1]).inputs["s"]
    assert isinstance(series, Series)
    assert series.values.tolist() == [[[0, 1], [1, 0]], [[0, 0], [0, 0]]]
    assert series.mask.tolist() == [[True, True], [True, False]]
