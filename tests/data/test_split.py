from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polymodal.data import Manifest, read
from polymodal.data.split import split
from polymodal.data.write import write
from polymodal.errors import ConfigError, DataError
from tests.data.files import noise, write_picture, write_text

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def table(folder: Path, values: list[str]) -> Manifest:
    rows = "".join(f"{i}.png,caption {i},{value}\n" for i, value in enumerate(values))
    return read(write_text(folder / "t.csv", "image,caption,label\n" + rows))


@given(labels=st.lists(st.sampled_from("abc"), min_size=10, max_size=200), seed=st.integers(0, 99))
@many
def test_stratified_splits_give_every_value_its_share_to_within_a_row(
    tmp_path: Path, labels: list[str], seed: int
) -> None:
    found = split(table(tmp_path, labels), (8, 1, 1), stratify="label", seed=seed)
    for value, count in Counter(labels).items():
        parts = np.bincount(found.of_row[np.array(labels) == value], minlength=3)
        assert np.abs(parts - count * np.array([0.8, 0.1, 0.1])).max() < 1 + 1e-6, (value, parts)
    assert all(found.counts().values())


@given(groups=st.lists(st.integers(0, 40), min_size=3, max_size=300), seed=st.integers(0, 99))
@many
def test_no_group_is_on_two_sides_and_ratios_are_near(tmp_path: Path, groups: list[int], seed: int) -> None:
    sizes = Counter(groups)
    manifest = table(tmp_path, [f"g {group}" for group in groups])
    if len(sizes) < 3:
        with pytest.raises(DataError, match=f'has {len(sizes)} groups in "label", too few for 3 splits'):
            split(manifest, group="label", seed=seed)
        return
    found = split(manifest, (8, 1, 1), group="label", seed=seed)
    sides = {(group, side) for group, side in zip(groups, found.of_row.tolist(), strict=True)}
    assert len(sides) == len(sizes)
    assert all(found.counts().values()), "every split has something"
    largest = max(sizes.values())
    wanted = len(groups) * np.array([0.8, 0.1, 0.1])
    assert np.abs(np.bincount(found.of_row, minlength=3) - wanted).max() <= 2 * largest


def test_a_seed_repeats_and_another_differs(tmp_path: Path) -> None:
    manifest = table(tmp_path, ["x"] * 50)
    assert split(manifest, seed=1).of_row.tolist() == split(manifest, seed=1).of_row.tolist()
    assert split(manifest, seed=1).of_row.tolist() != split(manifest, seed=2).of_row.tolist()
    assert split(manifest, (7, 3)).counts() == {"train": 35, "val": 15}
    assert split(manifest, (1, 0, 1)).counts() == {"train": 25, "val": 0, "test": 25}


def test_rows_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    assert split(table(tmp_path, ["", "", "a", "a", ""]), group="label").groups == 4


def test_grouping_by_image_keeps_copies_and_look_alikes_together(tmp_path: Path) -> None:
    names = []
    for i in range(12):
        noise(i, 200, 200).save(tmp_path / f"{i}.png")
        noise(i, 200, 200).resize((120, 120)).save(tmp_path / f"{i}.jpg", quality=90)
        (tmp_path / f"{i}-copy.png").write_bytes((tmp_path / f"{i}.png").read_bytes())
        names += [f"{i}.png", f"{i}.jpg", f"{i}-copy.png", f"{i}.png"]
    names.append("gone.png")
    rows = "".join(f"{name},caption {place}\n" for place, name in enumerate(names))
    manifest = read(write_text(tmp_path / "t.csv", "photo,caption\n" + rows))
    for column in ("image", "photo"):
        found = split(manifest, (2, 1, 1), group=column)
        assert found.groups == 13
        for i in range(12):
            assert len(set(found.of_row[4 * i : 4 * i + 4].tolist())) == 1
    written = write(manifest, tmp_path / "out.csv", {"split": found.column()})
    assert read(written).splits() == found.counts()


@pytest.mark.parametrize("ratio", [(1,), (1, 2, 3, 4), (-1, 2), (0, 1), (float("nan"), 1)])
def test_ratios_that_make_no_sense(tmp_path: Path, ratio: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="ratio must be two or three numbers such as 8:1:1, got "):
        split(table(tmp_path, ["x"] * 5), ratio)


def test_bad_requests(tmp_path: Path) -> None:
    manifest = table(tmp_path, ["x", "y"])
    with pytest.raises(ConfigError, match="stratify and group cannot both be held"):
        split(manifest, stratify="label", group="label")
    with pytest.raises(DataError, match='no column is named "lable"; did you mean "label"'):
        split(manifest, (1, 1), stratify="lable")
    with pytest.raises(DataError, match="has 2 rows, too few for 3 splits"):
        split(manifest)
    write_picture(tmp_path / "0.png")
    lists = read(write_text(tmp_path / "t.jsonl", '{"image": "0.png", "tags": ["a"]}\n'))
    with pytest.raises(DataError, match='column "tags" holds lists; give one with single values'):
        split(lists, (1, 1), group="tags")
