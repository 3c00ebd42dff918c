"""Which cells of a batch belong together, against a slow search, and that the towers run once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.objectives import Pairs, Step, belongs
from polymodal.types import ImageTextBatch, Text

few = st.integers(0, 3)


@given(st.lists(st.tuples(few, few), min_size=1, max_size=8))
def test_belongs_agrees_with_a_search(rows: list[tuple[int, int]]) -> None:
    found = belongs(torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows]))
    wanted = [[(picture, caption) in rows for _, caption in rows] for picture, _ in rows]
    if found is None:
        assert wanted == torch.eye(len(rows), dtype=torch.bool).tolist()
    else:
        assert found.tolist() == wanted


def test_nothing_is_masked_when_all_are_different() -> None:
    assert belongs(torch.tensor([5, 9, 2]), torch.tensor([1, 2, 3])) is None


def test_two_captions_of_a_picture_and_one_caption_of_two_pictures_belong() -> None:
    pictures, captions = torch.tensor([1, 1, 2, 3]), torch.tensor([10, 11, 11, 12])
    found = belongs(pictures, captions)
    assert found is not None
    assert found.tolist() == [
        [True, True, True, False],  # picture 1 has captions 10 and 11
        [True, True, True, False],
        [False, True, True, False],  # picture 2 has caption 11 alone
        [False, False, False, True],
    ]


def test_a_step_runs_the_towers_once_and_only_when_asked() -> None:
    runs = []

    def embed() -> Pairs:
        runs.append(1)
        return Pairs(torch.eye(2), torch.eye(2), torch.tensor(1.0))

    none = torch.zeros(0)
    step = Step(torch.nn.Identity(), ImageTextBatch(none, Text(none, none), none), embed)  # type: ignore[arg-type]
    assert runs == []
    assert step.pairs is step.pairs
    assert runs == [1]
