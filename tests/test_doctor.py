import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from polymodal import artifact, doctor
from polymodal.doctor import Finding, examine
from polymodal.engine.backends import choose
from tests import tiny


def named(findings: list[Finding], area: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings if finding.area == area}


def test_it_looks_at_everything_and_this_machine_is_well() -> None:
    findings = examine()
    assert {finding.area for finding in findings} == {
        "python", "packages", "conflicts", "torch", "cpu", "memory", "gpu", "disk", "environment", "extras", "backends",
    }  # fmt: skip
    assert [finding for finding in findings if finding.state == "fail"] == []
    assert not [finding for finding in findings if "could not be looked at" in finding.value]
    assert named(findings, "packages")["torch"].value == metadata.version("torch")
    assert str(torch.__version__) in named(findings, "torch")["build"].value


def test_what_is_not_well_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.0", "pillow": None}
    real = metadata.version

    def version(name: str) -> str:
        if name in versions and versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    findings = examine()
    packages = named(findings, "packages")
    assert packages["numpy"].state == packages["pillow"].state == "fail"
    assert packages["numpy"].value == "1.0, but polymodal wants >=1.26"
    assert packages["numpy"].remedy == 'pip install "numpy>=1.26"'
    assert packages["pillow"].value == "is not installed"
    assert all(finding.remedy for finding in findings if finding.state != "ok")
    assert named(findings, "conflicts")["scikit-learn needs numpy"].state == "fail"


def test_a_conflict_that_is_not_ours_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"stranger": ["numpy<0.1"], "polymodal": ["numpy>=1.26"]}
    monkeypatch.setattr(metadata, "requires", lambda name: asked.get(name, []))
    monkeypatch.setattr(metadata, "distributions", lambda: [SimpleNamespace(metadata={"Name": name}) for name in asked])
    (clash,) = doctor._conflicts()
    assert (clash.name, clash.state) == ("stranger needs numpy", "warn")
    assert clash.value.endswith("but stranger wants <0.1")


def test_a_broken_torch_is_a_finding_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise OSError("libtorch_cpu.so: undefined symbol")

    monkeypatch.setattr(torch, "ones", broken)
    (found,) = doctor._torch()
    assert (found.state, found.value) == ("fail", "OSError: libtorch_cpu.so: undefined symbol")
    assert found.remedy == "pip install --force-reinstall torch"


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _memory() -> Iterator[Finding]:
        raise ZeroDivisionError("no memory at all")

    monkeypatch.setattr(doctor, "_memory", _memory)
    found = named(examine(), "doctor")["memory"]
    assert found.state == "warn"
    assert "no memory at all" in found.value


def test_more_threads_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    threads = {finding.name: finding for finding in doctor._torch()}["threads"]
    assert (threads.state, threads.value) == ("warn", "64 for 2 usable cores")
    assert threads.remedy.startswith("export OMP_NUM_THREADS=2")


def gpu(monkeypatch: pytest.MonkeyPatch, cards: str, built_for: str | None) -> Finding:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: cards)
    (found,) = doctor._gpu()
    return found


def test_a_gpu_that_torch_cannot_use_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu(monkeypatch, "", None).state == "ok"
    mismatch = gpu(monkeypatch, "Tesla T4, 535.1, 15360 MiB", None)
    assert (mismatch.state, "built for the CPU only" in mismatch.value) == ("warn", True)
    assert "install the CUDA build of torch" in mismatch.remedy
    driver = gpu(monkeypatch, "Tesla T4, 300.1, 15360 MiB", "12.8")
    assert (driver.state, "torch cannot use it" in driver.value) == ("warn", True)
    assert "update the NVIDIA driver to one that runs CUDA 12.8" in driver.remedy


def test_the_cards_come_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A10, 550.54, 23028 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert doctor._nvidia_smi() == "NVIDIA A10, 550.54, 23028 MiB"
    program.write_text("#!/bin/sh\necho 'driver mismatch' >&2; exit 9\n")
    assert doctor._nvidia_smi() == ""


def test_a_full_disk_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "not" / "there" / "yet"))
    usage: Any = SimpleNamespace(free=2**30)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    (found,) = doctor._disk()
    assert (found.state, found.value) == ("warn", f"1.0 GiB free in {tmp_path}/not/there/yet")
    assert "set POLYMODAL_CACHE" in found.remedy


def test_an_artifact_is_looked_at_file_by_file(tmp_path: Path) -> None:
    folder = artifact.save(
        tmp_path / "run" / "artifact", model=tiny.clip(), tokenizer=tiny.tokenizer(), preprocess=tiny.preprocess()
    )
    (well,) = doctor._artifact(tmp_path / "run")
    assert (well.state, well.value.startswith("every checksum fits; ")) == ("ok", True)
    (folder / "model.safetensors").write_bytes(b"short")
    (folder / "preprocess.json").unlink()
    ill = {finding.name: finding for finding in doctor._artifact(folder)}
    assert {name: finding.state for name, finding in ill.items()} == {
        "model.safetensors": "fail",
        "preprocess.json": "fail",
    }
    assert "was changed or cut short" in ill["model.safetensors"].value
    assert "copy the artifact again" in ill["model.safetensors"].remedy
    (missing,) = doctor._artifact(tmp_path / "no")
    assert (missing.state, missing.value) == ("fail", "does not exist")


def test_backends_are_listed_with_the_precisions_of_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "knows_bfloat16", lambda: False)
    monkeypatch.setattr(doctor, "knows_int8", lambda: True)
    monkeypatch.setattr(choose, "find_spec", lambda package: None if package == "onnxscript" else object())
    found = named(list(doctor._backends()), "backends")
    assert found["torch"].value == "float32, int8 (this CPU has no instructions for bfloat16)"
    assert (found["onnx"].state, found["onnx"].value) == ("ok", "not installed: onnxscript")
    assert found["onnx"].remedy == 'if wanted: pip install "polymodal[onnx]"'
