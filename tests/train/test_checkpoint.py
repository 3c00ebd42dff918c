"""Checkpoints: round trips, damage, a full disk, and a kill at every single step of writing."""

import errno
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.errors import ArtifactError, TrainError
from polymodal.train import checkpoint
from polymodal.train.checkpoint import Index, load, read_index, record, save


def state(step: int = 1) -> dict[str, Any]:
    weights = torch.arange(6.0).view(2, 3) + step
    return {
        "step": step,
        "weights": {"a": weights, "tied": weights, "turned": weights.T, "none": torch.zeros(0)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "betas": (0.9, 0.98)},
        "halves": [torch.ones(2, dtype=torch.bfloat16), None, True, "文", 0.1, Path("runs/a")],
        "best": -math.inf,
        "worst": math.nan,
    }


def same(a: Any, b: Any) -> bool:
    match a:
        case torch.Tensor():
            return a.dtype == b.dtype and torch.equal(a, b)
        case dict():
            return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
        case list() | tuple():
            return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
        case float() if math.isnan(a):
            return math.isnan(b)
    return type(a) is type(b) and bool(a == b)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    save(state(), tmp_path / "step-1")
    assert same(load(tmp_path / "step-1"), state())
    assert not list(tmp_path.glob(".*"))


def test_a_second_one_of_the_same_name_takes_its_place_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for step in (1, 2):
        save(state(step), tmp_path / "step-1")
    assert load(tmp_path / "step-1")["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_there_is_no_pickle_in_it(tmp_path: Path) -> None:
    save(state(), tmp_path / "step-1")
    assert sorted(file.name for file in (tmp_path / "step-1").iterdir()) == [
        "SHA256SUMS",
        "state.json",
        "tensors.safetensors",
    ]


def test_what_is_no_plain_value_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"checkpoint: /callbacks/0 is a set; only tensors and plain values"):
        save({"callbacks": [{1, 2}]}, tmp_path / "step-1")


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_one_is_refused_by_its_file_and_the_one_before_is_named(
    tmp_path: Path, file: str, damage: str
) -> None:
    for step in (1, 2):
        save(state(step), tmp_path / f"step-{step}")
        record(tmp_path, f"step-{step}", keep=2)
    victim = tmp_path / "step-2" / file
    content = victim.read_bytes()
    match damage:
        case "missing":
            victim.unlink()
        case "cut":
            victim.write_bytes(content[: len(content) // 2])
        case "changed":
            victim.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ArtifactError) as refusal:
        load(tmp_path / "step-2")
    assert f'checkpoint "{tmp_path}/step-2": ' in str(refusal.value)
    assert file in str(refusal.value) or file == "SHA256SUMS"
    assert f"--resume {tmp_path}/step-1" in str(refusal.value)


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(state(step), tmp_path / f"step-{step}")
        record(tmp_path, f"step-{step}", keep=2, value=0.5, best=step == 2)
    index = read_index(tmp_path)
    assert index == Index(("step-2", "step-4", "step-5"), "step-2", 0.5)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-2", "step-4", "step-5"]


def test_a_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"index\.json cannot be read.*--resume RUN/checkpoints/step-"):
        read_index(tmp_path)


@pytest.mark.parametrize("full_at", ["save_file", "_write_file", "_flush"])
def test_a_full_disk_is_said_and_leaves_the_one_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    save(state(1), tmp_path / "step-1")
    record(tmp_path, "step-1", keep=2)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, full_at, full)
    with pytest.raises(TrainError, match=r"step-2: .*No space left on device.*make room.*--resume"):
        save(state(2), tmp_path / "step-2")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-1"]
    assert same(load(tmp_path / read_index(tmp_path).saved[-1]), state(1))


# Every file system call of Python's is reported to audit hooks. A child is killed at the first of them, the next one at
# the second, and so on until one gets through; after each kill the parent reads what is there.
KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
import torch
from polymodal.train.checkpoint import load, read_index, record, save

def one(folder, name, step):
    save({"step": step, "weights": torch.full((3,), float(step))}, folder / name.format(step))
    record(folder, name.format(step), keep=1)

def die_at(call):
    seen = 0
    def hook(event, args):
        nonlocal seen
        if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"):
            seen += 1
            if seen == call:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def killed_everywhere(folder, name):
    one(folder, name, 0)
    found, call, status = [], 0, 1
    while status:
        call += 1
        child = os.fork()
        if child == 0:
            die_at(call)
            one(folder, name, call)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        state = load(folder / read_index(folder).saved[-1])
        assert state["weights"].tolist() == [float(state["step"])] * 3
        found.append(state["step"])
    print(call, found[-1], len(set(found)))

killed_everywhere(Path(sys.argv[1]) / "a", "step-{}")
killed_everywhere(Path(sys.argv[1]) / "b", "step-same")
"""


def test_a_kill_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for line in run.stdout.splitlines():
        calls, last, different = map(int, line.split())
        assert calls > 15  # it was killed at this many places
        assert last == calls  # the one that got through is the one that is there
        assert different > 2  # some were killed before the new one counted, some after
    assert len(run.stdout.splitlines()) == 2
