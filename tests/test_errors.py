import inspect

import pytest

from polymodal import errors
from polymodal.errors import PolymodalError, did_you_mean


def test_one_except_catches_every_error_and_the_docstring_draws_them_all() -> None:
    raised = [thing for thing in vars(errors).values() if inspect.isclass(thing) and issubclass(thing, Exception)]
    assert len(raised) > 3
    for error in raised:
        assert issubclass(error, PolymodalError)
        assert error.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("trian", '; did you mean "train"?'), ("train", '; did you mean "train"?'), ("zebra", ""), ("", "")],
)
def test_a_near_name_is_suggested_and_a_far_one_is_not(name: str, hint: str) -> None:
    assert did_you_mean(name, ["val", "train", "test"]) == hint
