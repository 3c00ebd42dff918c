import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polymodal import machine


def groups(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n")
    return folder


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/pod/a", {"pod/a/cpu.max": "50000 100000", "cpu.max": "max 100000"}, 0.5),
        ("0::/", {"cpu.max": "max 100000"}, 3.0),
        ("0::/", {"cpu.max": "800000 100000"}, 3.0),
        ("0::/", {}, 3.0),
        (
            "7:cpu,cpuacct:/pod\n0::/",
            {"cpu/pod/cpu.cfs_quota_us": "250000", "cpu/pod/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("7:cpuacct,cpu:/gone", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        ("7:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
    ],
)
def test_usable_cores_are_those_of_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], cores: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(machine, "CGROUPS", groups(tmp_path, files))
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **how: own if str(self) == "/proc/self/cgroup" else read(self, **how)
    )
    assert machine.usable_cores() == cores
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.threads() == max(1, int(cores))


def test_threads_that_the_user_set_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 4.0)
    for asked, threads in {"3": 3, "64": 64, "0": 4, "many": 4}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert machine.threads() == threads


def test_bfloat16_and_int8_are_read_from_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, knows in {
        ("avx2",): (False, True),
        ("avx2", "avx512_bf16"): (True, True),
        ("amx_bf16",): (True, False),
        (): (False, False),
    }.items():
        monkeypatch.setattr(machine, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert (machine.knows_bfloat16(), machine.knows_int8()) == knows


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_settings_of_malloc_that_the_user_made_are_left_alone() -> None:
    code = "from polymodal import machine; print(machine.keep_large_buffers())"
    given = {name: value for name, value in os.environ.items() if name != "MALLOC_MMAP_THRESHOLD_"}
    for extra, said in (({}, "True"), ({"MALLOC_MMAP_THRESHOLD_": "65536"}, "False")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=given | extra, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise")
def test_paged_out_weights_leave_memory_and_are_read_again(tmp_path: Path) -> None:
    numbers = torch.arange(2**20, dtype=torch.float32)
    save_file({"a": numbers}, tmp_path / "a.safetensors")
    mapped = load_file(tmp_path / "a.safetensors")["a"]
    assert mapped.sum() > 0
    machine.page_out(mapped.data_ptr(), mapped.numel() * 4)
    assert torch.equal(mapped, numbers)
    machine.page_out(numbers.data_ptr(), numbers.numel() * 4)  # not mapped from a file: it stays
    machine.give_back()
    assert torch.equal(mapped, numbers)
