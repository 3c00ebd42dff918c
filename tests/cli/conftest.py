from pathlib import Path

import pytest

from polymodal import artifact
from tests import tiny
from tests.cli.running import run as run
from tests.engine import tables


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact; not to be changed."""
    return artifact.save(
        tmp_path_factory.mktemp("saved") / "tiny",
        model=tiny.clip(),
        tokenizer=tiny.tokenizer(),
        preprocess=tiny.preprocess(),
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """pairs.jsonl of six rows, its pictures beside it."""
    return tables.write(tmp_path)
