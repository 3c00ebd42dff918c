"""The command line as people call it, in this process."""

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from polymodal.cli import main


class Done(NamedTuple):
    code: int  # what the shell gets
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("COLUMNS", "240")  # or messages are broken where nobody can foresee

    def call(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["polymodal", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        code = stop.value.code or 0
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return call
