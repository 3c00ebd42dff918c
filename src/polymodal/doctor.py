"""What of this machine and installation stands in the way: versions, conflicts, CPU, memory, GPU, disk, an artifact.

Nothing heavy is imported at the top, so that a broken torch is a finding and not a traceback.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from polymodal.machine import FEATURES, cgroup_file, cpu_flags, cpu_model, knows_bfloat16, knows_int8, usable_cores

State = Literal["ok", "warn", "fail"]
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_OFFLINE",
)
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    area: str
    name: str
    state: State
    value: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def examine(artifact: str | Path | None = None) -> list[Finding]:
    """Everything found; a check that itself breaks is a finding too."""
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _packages, _conflicts, _torch, _cpu, _memory, _gpu, _disk]
    checks += [_environment, _extras, _backends]
    if artifact is not None:
        checks.append(lambda: _artifact(Path(artifact)))
    return [finding for check in checks for finding in _guarded(check)]


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # the doctor reports, whatever it meets
        yield Finding("doctor", check.__name__.strip("_"), "warn", f"could not be looked at: {error!r}")


def _python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    wanted = metadata.metadata("polymodal")["Requires-Python"] or ""
    fits = SpecifierSet(wanted).contains(version)
    remedy = "" if fits else f"make a virtual environment with Python {wanted}"
    yield Finding("python", "python", "ok" if fits else "fail", f"{version} ({sys.executable})", remedy)
    yield Finding("python", "system", "ok", f"{platform.platform()} {platform.machine()}")


def _packages() -> Iterator[Finding]:
    yield Finding("packages", "polymodal", "ok", metadata.version("polymodal"))
    for requirement in _requirements("polymodal"):
        yield _requirement("packages", requirement, wanted_by="polymodal")


def _requirements(package: str, extra: str = "") -> list[Any]:
    """What a distribution asks for, for this machine; with `extra`, only what that extra adds."""
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in metadata.requires(package) or []]
    if not extra:
        return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [
        one
        for one in asked
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    ]


def _requirement(area: str, requirement: Any, wanted_by: str) -> Finding:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(area, requirement.name, "fail", "is not installed", f'pip install "{requirement}"')
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(area, requirement.name, "ok", version)
    value = f"{version}, but {wanted_by} wants {requirement.specifier}"
    return Finding(area, requirement.name, "fail", value, f'pip install "{requirement.name}{requirement.specifier}"')


def _conflicts() -> Iterator[Finding]:
    """What `pip check` would say: fails among what polymodal stands on, warnings elsewhere."""
    from packaging.utils import canonicalize_name

    ours, todo = set(), ["polymodal"]
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in ours and _installed(name):
            ours.add(name)
            todo += [requirement.name for requirement in _requirements(name)]
    found = 0
    for name in sorted({canonicalize_name(str(one.metadata["Name"])) for one in metadata.distributions()}):
        for requirement in _requirements(name) if name != "polymodal" else []:
            finding = _requirement("conflicts", requirement, wanted_by=name)
            if finding.state != "ok":
                found += 1
                value = finding.value if "wants" in finding.value else f"is not installed, but {name} wants it"
                state: State = "fail" if name in ours else "warn"
                yield Finding("conflicts", f"{name} needs {finding.name}", state, value, finding.remedy)
    if not found:
        yield Finding("conflicts", "installed packages", "ok", "none: every package has what it asks for")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _torch() -> Iterator[Finding]:
    try:
        import torch

        product = torch.ones(2, 3) @ torch.ones(3, 2)
    except Exception as error:
        remedy = "pip install --force-reinstall torch"
        yield Finding("torch", "import", "fail", f"{type(error).__name__}: {error}", remedy)
        return
    if product.sum().item() != 12:
        remedy = "pip install --force-reinstall torch"
        yield Finding("torch", "matrix product", "fail", f"gives {product.sum().item()}, wanted 12", remedy)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding("torch", "build", "ok", f"{torch.__version__}, {build}")
    yield Finding("torch", "CPU kernels", "ok", torch.backends.cpu.get_cpu_capability())
    threads, cores = torch.get_num_threads(), usable_cores()
    crowded = threads > max(1, cores)
    remedy = f"export OMP_NUM_THREADS={max(1, int(cores))}: more threads than cores make it slower" if crowded else ""
    yield Finding("torch", "threads", "warn" if crowded else "ok", f"{threads} for {cores:g} usable cores", remedy)


def _cpu() -> Iterator[Finding]:
    yield Finding("cpu", "model", "ok", cpu_model())
    if flags := cpu_flags():
        spelled = " ".join(f"{name} {'yes' if name in flags else 'no'}" for name in FEATURES)
        slow = "avx2" not in flags
        remedy = "torch runs, but slowly: use a CPU with AVX2" if slow else ""
        yield Finding("cpu", "features", "warn" if slow else "ok", spelled, remedy)
    yield Finding("cpu", "cores", "ok", f"{os.cpu_count()} in the machine, {usable_cores():g} usable here")


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    limit = cgroup_file("memory.max") or cgroup_file("memory.limit_in_bytes", "memory")
    total = min(memory.total, int(limit)) if limit and limit != "max" else memory.total
    free = min(memory.available, total)
    tight = free < 2 * GIB
    remedy = "close other programs, or lower batch_size" if tight else ""
    yield Finding(
        "memory", "memory", "warn" if tight else "ok", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free", remedy
    )


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            yield Finding("gpu", f"cuda:{index}", "ok", f"{about.name}, {about.total_memory / GIB:.0f} GiB")
        return
    if torch.backends.mps.is_available():
        yield Finding("gpu", "mps", "ok", "Apple GPU")
        return
    cards = _nvidia_smi()
    if not cards:
        yield Finding("gpu", "gpu", "ok", "none found (nvidia-smi shows no card): the CPU is used")
    elif not torch.version.cuda:
        remedy = "install the CUDA build of torch: https://pytorch.org/get-started/locally"
        yield Finding("gpu", "gpu", "warn", f"{cards}: there, but this torch is built for the CPU only", remedy)
    else:
        remedy = (
            f"update the NVIDIA driver to one that runs CUDA {torch.version.cuda}, and look at CUDA_VISIBLE_DEVICES"
        )
        yield Finding("gpu", "gpu", "warn", f"{cards}: there, but torch cannot use it", remedy)


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return "; driver ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


def _disk() -> Iterator[Finding]:
    from polymodal.data.cache import cache_folder

    folder = cache_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        yield Finding(
            "disk", "cache", "fail", f"{folder} cannot be written", "set POLYMODAL_CACHE to a folder of yours"
        )
    tight = free < 5 * GIB
    remedy = f"free some space, or set POLYMODAL_CACHE to a larger disk than {folder}'s" if tight else ""
    yield Finding("disk", "cache", "warn" if tight else "ok", f"{free / GIB:.1f} GiB free in {folder}", remedy)


def _environment() -> Iterator[Finding]:
    for name in VARIABLES:
        yield Finding("environment", name, "ok", os.environ.get(name, "not set"))


def _extras() -> Iterator[Finding]:
    for extra in metadata.metadata("polymodal").get_all("Provides-Extra") or []:
        missing = [one.name for one in _requirements("polymodal", extra) if not _installed(one.name)]
        value = f"not installed: {', '.join(missing)}" if missing else "installed"
        remedy = f'if wanted: pip install "polymodal[{extra}]"' if missing else ""
        yield Finding("extras", extra, "ok", value, remedy)


def _backends() -> Iterator[Finding]:
    """What can compute a model here, and in which precisions."""
    from polymodal.engine.backends.choose import KNOWS, missing

    here = {"float32": True, "bfloat16": knows_bfloat16(), "int8": knows_int8()}
    for name, known in KNOWS.items():
        if package := missing(name):
            remedy = f'if wanted: pip install "polymodal[{name}]"'
            yield Finding("backends", name, "ok", f"not installed: {package}", remedy)
        else:
            able = ", ".join(one for one in known if here[one])
            lacks = ", ".join(one for one in known if not here[one])
            yield Finding(
                "backends", name, "ok", able + (f" (this CPU has no instructions for {lacks})" if lacks else "")
            )


def _artifact(folder: Path) -> Iterator[Finding]:
    from polymodal import artifact
    from polymodal.errors import PolymodalError

    folder = folder / "artifact" if (folder / "artifact").is_dir() else folder
    problems = artifact.verify(folder)
    for problem in problems:
        yield Finding("artifact", problem.file, "fail", problem.reason, problem.remedy)
    if problems:
        return
    try:
        loaded = artifact.load(folder)
    except PolymodalError as error:
        yield Finding("artifact", str(folder), "fail", str(error))
        return
    weights = sum(weight.numel() for weight in loaded.model.parameters())
    yield Finding("artifact", str(folder), "ok", f"every checksum fits; {weights:,} weights")
