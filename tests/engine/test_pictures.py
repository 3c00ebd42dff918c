import threading

import numpy as np
import pytest

from polymodal.engine.pictures import Picture, Pixels, decoded
from polymodal.errors import DataError


def number(picture: Picture) -> Pixels:
    assert isinstance(picture, bytes)
    if picture == b"bad":
        raise DataError("no good")
    return np.array(int(picture), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 20])
def test_batches_keep_the_order_and_leave_nothing_out(count: int, batch_size: int) -> None:
    batches = list(decoded([str(n).encode() for n in range(count)], number, batch_size))
    assert [len(batch) for batch in batches] == [
        min(batch_size, count - start) for start in range(0, count, batch_size)
    ]
    found = [(place, int(pixels)) for batch in batches for place, pixels in batch if isinstance(pixels, np.ndarray)]
    assert found == [(n, n) for n in range(count)]


def test_a_bad_picture_stands_in_its_place() -> None:
    ((zero, one, two),) = decoded([b"0", b"bad", b"2"], number, 3)
    assert not isinstance(zero[1], DataError)
    assert not isinstance(two[1], DataError)
    assert (int(zero[1]), int(two[1])) == (0, 2)
    assert isinstance(one[1], DataError)


def test_at_most_two_batches_are_decoded_ahead_and_none_after_the_caller_stops() -> None:
    asked: list[int] = []
    lock = threading.Lock()

    def work(picture: Picture) -> Pixels:
        with lock:
            asked.append(1)
        return number(picture)

    batches = decoded([b"1"] * 1000, work, 4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert 4 <= len(asked) <= 12


def test_an_error_that_is_nobodys_fault_is_not_swallowed() -> None:
    def broken(picture: Picture) -> Pixels:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(decoded([b"1", b"2"], broken, 2))
