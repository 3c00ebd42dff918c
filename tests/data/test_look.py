import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polymodal.data import look
from polymodal.data.look import near_pairs


def pairs_of(hashes: list[int], colors: NDArray[np.uint8]) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    near_pairs(np.array(hashes, np.uint64), colors, lambda a, b: found.update(zip(a.tolist(), b.tolist(), strict=True)))
    return found


@given(
    base=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    flips=st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=5)), min_size=1, max_size=30),
    shade=st.lists(st.sampled_from([0, 10, 40]), min_size=30, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_bands_find_exactly_what_comparing_all_with_all_finds(
    base: list[int], flips: list[tuple[int, set[int]]], shade: list[int]
) -> None:
    hashes = [base[which % len(base)] ^ sum(1 << bit for bit in bits) for which, bits in flips]
    colors = np.array(shade[: len(hashes)], np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    expected = {
        (i, j)
        for j in range(len(hashes))
        for i in range(j)
        if (hashes[i] ^ hashes[j]).bit_count() <= 3 and abs(shade[i] - shade[j]) <= 16
    }
    assert pairs_of(hashes, colors) == expected


def test_a_crowd_is_compared_with_its_neighbors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "CROWD", 1000)
    count = 1500
    colors = np.zeros((count, 4, 4, 3), np.uint8)
    found = pairs_of([7] * count, colors)
    second = {pair[1] for pair in found}
    assert second == set(range(1, count)), "every one but the first has somebody before it"
    assert len(found) < count * 512
