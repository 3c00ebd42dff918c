"""`make demo` runs from end to end and reaches what RESULTS.md says of it, with some room for other machines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

LEAST = {
    ("test_style", "name"): 0.72,
    ("test_concept", "name"): 0.18,
    ("test_both", "name"): 0.16,
    ("test_style", "name_zh"): 0.60,
}


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    demo = [sys.executable, str(ROOT / "examples/emoji/demo.py"), "--out", str(tmp_path)]
    ran = subprocess.run(demo, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))["tests"]
    shares = {(test["split"], test["names"]): test["R@1"]["value"] for test in found}
    assert shares.keys() == LEAST.keys()
    for test, least in LEAST.items():
        assert shares[test] >= least, (test, shares[test])
    assert list(tmp_path.glob("answers-*.png"))
    assert (tmp_path / "report-test_style-name" / "report.html").exists()
