import subprocess
import sys
from collections.abc import Sequence

import pytest

import polymodal
from polymodal.cli.app import VERBS
from polymodal.errors import ConfigError, DataError
from tests.cli.running import Run


def shell(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "polymodal", *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_program_runs_as_a_process_and_ends_with_its_codes() -> None:
    version, nothing = shell(["--version"]), shell(["embed", "no-such-folder", "no-such-table", "--out", "a.npz"])
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{polymodal.__version__}\n", "")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "no-such-table" in nothing.stderr
    assert "Traceback" not in nothing.stderr


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_every_verb_is_listed(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.code in (0, 2)
    for verb, help_ in VERBS.items():
        assert f"{verb} " in done.out + done.err
        assert help_.split(";")[0].split(":")[0] in done.out + done.err


def test_a_verb_with_a_typo_is_answered_with_the_nearest(run: Run) -> None:
    done = run("quary")
    assert done.code == 2
    assert 'no command is named "quary"; did you mean "query"?' in done.err


@pytest.mark.parametrize("verb", ["embed", "query", "classify", "doctor"])
def test_the_help_of_a_verb_has_examples(run: Run, verb: str) -> None:
    done = run(verb, "--help")
    assert done.code == 0
    assert "Examples" in done.out
    assert done.out.count(f"polymodal {verb} ") >= 3  # the usage line and two examples
    assert "--json" in done.out


@pytest.mark.parametrize("verb", ["embed", "query", "classify"])
def test_a_verb_that_needs_something_shows_its_help_when_it_gets_nothing(run: Run, verb: str) -> None:
    done = run(verb)
    assert done.code == 2
    assert f"{verb} [OPTIONS]" in done.out + done.err


def test_an_unknown_option_is_answered_with_the_nearest(run: Run) -> None:
    done = run("classify", "a", "b.png", "--lables", "cat")
    assert done.code == 2
    assert "--lables" in done.err
    assert "--labels" in done.err


@pytest.mark.parametrize(("error", "code"), [(ConfigError, 2), (DataError, 1)])
def test_errors_become_one_line_and_their_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: type[Exception], code: int
) -> None:
    def fail(artifact: object) -> None:
        raise error("a.csv: [bold]row 3[/] is bad; mend it")

    monkeypatch.setattr("polymodal.doctor.examine", fail)
    done = run("doctor")
    assert (done.code, done.out) == (code, "")
    assert done.err == "error: a.csv: [bold]row 3[/] is bad; mend it\n"


def test_ctrl_c_ends_quietly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(artifact: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("polymodal.doctor.examine", interrupted)
    done = run("doctor")
    assert done.code == 130
    assert "Traceback" not in done.err
