import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.fusion.missing import Missing, drop_inputs
from polymodal.types import Tokens

WIDTHS = {"image": 3, "text": 2}


def tokens(rows: int, length: int, width: int, fill: float = 1.0) -> Tokens:
    return Tokens(
        torch.full((rows, length, width), fill), torch.ones(rows, length).bool(), torch.full((rows, width), fill)
    )


def test_the_learned_token_stands_in_absent_rows_only() -> None:
    missing = Missing(WIDTHS)
    image = tokens(2, 4, 3)
    filled = missing({"image": image}, {"image": torch.tensor([True, False]), "text": torch.tensor([False, False])})
    assert list(filled) == ["image", "text"]
    sequence, mask, pooled = filled["image"]
    learned = missing.learned["image"]
    assert torch.equal(sequence[0], image.sequence[0])
    assert torch.equal(pooled[0], image.pooled[0])
    assert mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert torch.equal(sequence[1, 0], learned)
    assert not sequence[1, 1:].any()
    assert torch.equal(pooled[1], learned)
    sequence, mask, pooled = filled["text"]
    assert sequence.shape == (2, 1, 2)
    assert mask.all()
    assert torch.equal(pooled, missing.learned["text"].expand(2, 2))


def test_names_come_in_the_order_of_the_widths_whatever_the_order_given() -> None:
    both = {"text": tokens(1, 1, 2), "image": tokens(1, 1, 3)}
    assert list(Missing(WIDTHS)(both, {name: torch.tensor([True]) for name in both})) == ["image", "text"]


def test_nothing_is_copied_when_all_are_there() -> None:
    image = tokens(2, 4, 3)
    assert Missing({"image": 3})({"image": image}, {"image": torch.tensor([True, True])})["image"] is image


def test_not_a_number_in_an_absent_row_reaches_neither_values_nor_gradients() -> None:
    missing = Missing({"image": 3})
    image = tokens(2, 4, 3)
    image.sequence[1] = image.pooled[1] = float("nan")
    leaves = image.sequence.requires_grad_(), image.pooled.requires_grad_()
    filled = missing({"image": image}, {"image": torch.tensor([True, False])})["image"]
    (filled.sequence.square().sum() + filled.pooled.square().sum()).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad[0].eq(2).all()
        assert leaf.grad[1].eq(0).all()
    torch.testing.assert_close(missing.learned["image"].grad, 4 * missing.learned["image"].detach())


def test_a_vector_wider_than_the_tokens_is_filled_too() -> None:
    missing = Missing({"image": 5})
    image = Tokens(torch.ones(1, 4, 3), torch.ones(1, 4).bool(), torch.ones(1, 5))
    filled = missing({"image": image}, {"image": torch.tensor([False])})["image"]
    assert torch.equal(filled.sequence[0, 0], missing.learned["image"][:3])
    assert torch.equal(filled.pooled[0], missing.learned["image"])


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_a_row_loses_only_what_it_has_and_never_all_of_it(
    rows: list[list[bool]], probability: float, seed: int
) -> None:
    torch.manual_seed(seed)
    there = torch.tensor(rows)
    kept = torch.stack(list(drop_inputs(dict(zip("abc", there.unbind(1), strict=True)), probability).values()), 1)
    assert not (kept & ~there).any()
    assert torch.equal(kept.any(1), there.any(1))


def test_inputs_are_dropped_as_often_as_asked() -> None:
    torch.manual_seed(0)
    present = {name: torch.ones(40_000, dtype=torch.bool) for name in ("image", "text", "sound")}
    dropped = drop_inputs(present, 0.3)
    # 0.3, but for the rows (0.3³ of all) that would have lost all three and keep one of them.
    for kept in dropped.values():
        assert abs(1 - kept.float().mean().item() - (0.3 - 0.3**3 / 3)) < 0.01
    assert all(kept.all() for kept in drop_inputs(present, 0.0).values())
    alone = torch.stack(list(drop_inputs(present, 1.0).values()), 1)
    assert alone.sum(1).eq(1).all()
    assert (alone.float().mean(0) - 1 / 3).abs().max() < 0.01


def test_a_seed_repeats() -> None:
    present = {name: torch.ones(50, dtype=torch.bool) for name in ("image", "text")}
    torch.manual_seed(4)
    first = drop_inputs(present, 0.5)
    torch.manual_seed(4)
    assert all(torch.equal(kept, first[name]) for name, kept in drop_inputs(present, 0.5).items())
