"""Every command and snippet of README and docs runs, and both languages show the same ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, TWINS, blocks, without_comments
from tests.docs.sample import make_houses, make_sample

# What sets up the machine itself cannot run inside its own tests; `make demo` has a test of its own.
SETUP = re.compile(r"^(git clone|cd |make |pip install|python -m venv|\. ?\.venv)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_has_a_twin_with_the_same_code(page: Path) -> None:
    ours, theirs = blocks(page), blocks(TWINS[page])
    assert [block.language for block in ours] == [block.language for block in theirs]
    for our, their in zip(ours, theirs, strict=True):
        if our.language != "text":  # printed output may be shown in the reader's language
            assert without_comments(our.code) == without_comments(their.code), f"{page.name}:{our.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_has_a_twin_of_equal_depth(page: Path) -> None:
    def depth(path: Path) -> list[int]:
        prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]

    assert depth(page) == depth(TWINS[page])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pages_links_lead_somewhere(page: Path) -> None:
    for source in (page, TWINS[page]):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", source.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (source.parent / target).exists(), f"{source.name}: {target}"


# Pages on which many models are trained or converted: minutes, that `make docs` and `make test-all` take.
LONG = ("compress", "fast", "tables", "vision-language")
RUN = [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in LONG)) for page in PAGES]


@pytest.mark.parametrize("page", RUN)
def test_everything_on_the_page_runs(page: Path, tmp_path: Path) -> None:
    make_sample(tmp_path)
    make_houses(tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "POLYMODAL_CACHE": str(tmp_path / ".cache"),
    }
    for block in blocks(page):
        if block.language == "sh":
            lines = [line for line in block.code.splitlines() if not SETUP.match(line)]
            command = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
        elif block.language == "python":
            command = [sys.executable, "-c", block.code]
        else:
            assert block.language in {"text", "csv", "yaml"}, f"{page.name}:{block.line}: ```{block.language}"
            continue
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, f"{page.relative_to(ROOT)}:{block.line}\n{block.code}\n{ran.stdout}\n{ran.stderr}"
