import shutil
from pathlib import Path

import pytest

from polymodal.doctor import Finding
from tests.cli.running import Run


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the examination finds, to be filled by the test."""
    found: list[Finding] = []
    monkeypatch.setattr("polymodal.doctor.examine", lambda artifact: found)
    return found


def test_a_healthy_machine_and_artifact_end_with_zero(run: Run, saved: Path) -> None:
    done = run("doctor", saved, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json()["ok"] is True
    found = {(finding["area"], finding["name"]): finding for finding in done.json()["findings"]}
    assert found["artifact", str(saved)]["value"].startswith("every checksum fits")
    assert found["packages", "torch"]["state"] == "ok"


def test_a_damaged_artifact_ends_with_one_and_names_file_and_remedy(run: Run, saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "tokenizer.json").write_bytes((copy / "tokenizer.json").read_bytes()[:-1])
    done = run("doctor", copy)
    assert done.code == 1
    assert "artifact: tokenizer.json" in done.out
    assert "was changed or cut short" in done.out
    assert "→ copy the artifact again from where it came from" in done.out
    assert "1 broken" in done.out


def test_the_table_shows_state_value_and_remedy(run: Run, findings: list[Finding]) -> None:
    findings += [
        Finding("python", "python", "ok", "3.11"),
        Finding("disk", "cache", "warn", "1 GiB [free]", "free some space"),
    ]
    done = run("doctor")
    assert done.code == 0  # a warning breaks nothing
    for words in ("ok", "python: python", "3.11", "warn", "1 GiB [free]", "→ free some space"):
        assert words in done.out
    assert "1 ok, 1 to look at, 0 broken" in done.out


def test_something_broken_ends_with_one_in_json_too(run: Run, findings: list[Finding]) -> None:
    findings.append(Finding("torch", "import", "fail", "OSError", "install it again"))
    done = run("doctor", "--json")
    assert done.code == 1
    assert done.json() == {"ok": False, "findings": [findings[0].to_dict()]}
