"""The order of batches: every row once an epoch, the same wherever it is taken up, for any number of processes."""

from hypothesis import given
from hypothesis import strategies as st

from polymodal.train.batches import EpochBatches, Shares, caption_key


def order(rows: int, size: int, period: int, step: int, rank: int = 0, world: int = 1) -> list[list[tuple[int, int]]]:
    return list(EpochBatches(rows, size, period, seed=5, step=lambda: step, rank=rank, world=world))


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    first, second = order(12, 4, 3, 0), order(12, 4, 3, 3)
    for epoch, batches in enumerate((first, second)):
        keys = [key for batch in batches for key in batch]
        assert sorted(keys) == [(epoch, row) for row in range(12)]
    assert [row for batch in first for _, row in batch] != [row for batch in second for _, row in batch]


def test_rows_that_fill_no_batch_wait_for_another_epoch() -> None:
    assert [len(batch) for batch in order(11, 4, 2, 0)] == [4, 4]
    taken = {row for step in range(0, 40, 2) for batch in order(11, 4, 2, step) for _, row in batch}
    assert taken == set(range(11))


@given(st.integers(4, 40), st.integers(1, 4), st.integers(1, 9), st.integers(0, 30))
def test_it_goes_on_wherever_it_is_taken_up(rows: int, size: int, period: int, step: int) -> None:
    begin = step - step % period
    assert order(rows, size, period, step) == order(rows, size, period, begin)[step - begin :]


@given(st.integers(12, 40), st.sampled_from([2, 3, 4]))
def test_processes_share_what_one_would_take(rows: int, world: int) -> None:
    whole = order(rows, 12, 1, 0)[0]
    shares = [order(rows, 12, 1, 0, rank, world)[0] for rank in range(world)]
    assert {len(share) for share in shares} == {12 // world}
    assert sorted(key for share in shares for key in share) == sorted(whole)


@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 4))
def test_shares_hold_everything_in_batches_of_equal_sizes(count: int, size: int, world: int) -> None:
    shares = [list(Shares(count, size, rank, world)) for rank in range(world)]
    assert {place for share in shares for batch in share for place in batch} == set(range(count))
    assert len({tuple(map(len, share)) for share in shares}) == 1


def test_captions_are_told_apart_and_fit_in_int64() -> None:
    keys = [caption_key(caption) for caption in ("a dog", "a dog ", "一只狗", "")]
    assert len(set(keys)) == 4
    assert all(0 <= key < 2**63 for key in keys)
    assert caption_key("一只狗") == keys[2]
