"""What this process may use of the machine: cores, the processor's instructions, memory that is worth keeping."""

import contextlib
import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")  # as /proc/cpuinfo spells them
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # bf16: as ARM spells it
CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> float:
    """Cores that this process may use: its affinity, and the quota of its control group (version 1 or 2)."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = cpu_quota()
    return cores if quota is None else min(cores, quota)


def cpu_quota() -> float | None:
    """Cores' worth of time that the control group grants; None: as much as there is."""
    if written := cgroup_file("cpu.max"):  # "200000 100000": microseconds granted in each period; "max 100000"
        granted, period = written.split()
        return None if granted == "max" else int(granted) / int(period)
    granted, period = cgroup_file("cpu.cfs_quota_us", "cpu") or "-1", cgroup_file("cpu.cfs_period_us", "cpu") or "0"
    return int(granted) / int(period) if int(granted) > 0 and int(period) > 0 else None


def cgroup_file(name: str, controller: str = "") -> str | None:
    """A file of this process's own control group, or of the container's root.

    Args:
        controller: of version 1, whose groups have a tree each; none: version 2.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    parts = [line.split(":", 2) for line in lines]
    own = next((part[2].lstrip("/") for part in parts if len(part) == 3 and controller in part[1].split(",")), None)
    if own is None:
        return None
    tree = CGROUPS / controller
    for folder in (tree / own, tree):
        try:
            return (folder / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return None


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets as /proc/cpuinfo spells them; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return frozenset(next((value.split() for key, _, value in named if key.strip() in ("flags", "Features")), ()))


def knows_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16; without the instructions it is many times slower than float32."""
    return any(name in cpu_flags() for name in BFLOAT16)


def knows_int8() -> bool:
    """Whether the CPU multiplies int8 faster than float32."""
    return "avx2" in cpu_flags() or "asimddp" in cpu_flags()


def name() -> str:
    """Names a machine for measurements that are kept: processor, its instructions, usable cores."""
    flags = " ".join(one for one in (*FEATURES, *BFLOAT16) if one in cpu_flags())
    return f"{platform.machine()} {cpu_model()} [{flags}] {usable_cores():g}"


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, "") or platform.processor() or "unknown"


def threads() -> int:
    """How many threads a model should compute with: $OMP_NUM_THREADS, else one for each usable core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else max(1, int(usable_cores()))


def page_out(address: int, size: int) -> None:
    """Tell the kernel that this memory will hardly be read again: what is mapped from a file leaves resident memory.

    It is a hint (Linux 5.4, MADV_PAGEOUT): contents stay as they are and are read again from the file when needed.
    """
    if not sys.platform.startswith("linux"):
        return
    page = os.sysconf("SC_PAGESIZE")
    start, end = -(-address // page) * page, (address + size) // page * page
    if end > start:
        with contextlib.suppress(OSError, AttributeError):  # no such function in this libc
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 21)


def give_back() -> None:
    """Give memory that is free back to the system, also where it lies between what is in use (glibc only)."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@cache
def keep_large_buffers() -> bool:
    """Tell glibc to keep freed buffers of up to 1 GiB for the next use, once for the process.

    A model frees and asks for the same tens of megabytes at every layer. By itself glibc gives such buffers back to
    the kernel each time, which fills the next ones with zeros page by page: up to half of the time of a batch. Resident
    memory stays at the peak of a batch afterwards, which the next batch needs anyway.

    Returns:
        Whether there is a glibc that has heard it. $MALLOC_MMAP_THRESHOLD_, set by the user, is left alone.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in glibc's malloc.h
    return bool(mallopt(mmap, 2**30)) and bool(mallopt(trim, 2**30))
