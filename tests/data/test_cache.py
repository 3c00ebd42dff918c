import os
from pathlib import Path

import pytest

from polymodal.data.cache import cache_folder, written_beside
from polymodal.errors import DataError


def test_the_folder_is_the_one_asked_for_or_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == Path(os.environ["POLYMODAL_CACHE"])
    monkeypatch.delenv("POLYMODAL_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "polymodal"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/polymodal"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep/t.txt"
    with written_beside(target) as part:
        part.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    with pytest.raises(UnicodeEncodeError), written_beside(target) as part:
        part.write_text("half \ud800")
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["t.txt"]


def test_what_a_killed_process_left_goes_after_an_hour(tmp_path: Path) -> None:
    old, new = tmp_path / "t.txt.a.part", tmp_path / "t.txt.b.part"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    with written_beside(tmp_path / "t.txt"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["t.txt", "t.txt.b.part"]


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(
            DataError, match=r"cannot be written to \(No space left on device\); make room there, or set POLY"
        ),
        written_beside(tmp_path / "t.txt"),
    ):
        raise OSError(28, "No space left on device")
