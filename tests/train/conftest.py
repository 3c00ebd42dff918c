"""Runs of milliseconds: one thread, a cache of their own, no drawing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from polymodal.train import run
from tests.train import toy


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes longer than the training."""
    monkeypatch.setattr(run, "draw_curve", lambda log, picture: None)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.table(tmp_path_factory.mktemp("toy"))
