"""An artifact -> a folder that other programs run, proved against the model before it has its name.

image.onnx, text.onnx   the graphs; of a table's model rows.onnx (OpenVINO: .xml with .bin; torch's program: .pt2)
tokenizer.json          as the artifact's
preprocess.json         as the artifact's
labels.json             of each target its task and classes
export.json             format, graphs with their inputs and outputs, the artifact's checksum, parity, checksums
README.md               the lines of Python by which the folder is used
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from polymodal import artifact
from polymodal.artifact import Artifact
from polymodal.errors import ArtifactError, ConfigError, did_you_mean
from polymodal.export.graphs import Axis, Graph, Port, graphs_of
from polymodal.export.parity import compare, runner
from polymodal.export.readme import PACKAGES, code, filters_of
from polymodal.export.write import ENDINGS, Format, require, write
from polymodal.features import Features
from polymodal.layers.log_mel import mel_filters
from polymodal.models.clip import Clip
from polymodal.version import __version__

FORMAT = "polymodal-export-1"


@dataclass(frozen=True)
class Exported:
    folder: Path
    about: dict[str, Any]  # what export.json holds


def export(
    source: str | Path,
    out: str | Path,
    *,
    format: Format = "onnx",  # noqa: A002
    data: str | Path | None = None,
) -> Exported:
    """Write an artifact's graphs in another program's format; an export that stands at `out` is replaced.

    Args:
        source: an artifact, or a run with one.
        format: onnx (ONNX Runtime and many others), openvino (its IR), program (`torch.export`).
        data: a table with the model's columns; its first rows go through the model and the export, to compare. None:
            random inputs do.

    Raises:
        ConfigError: the format is not known, or its extra is not installed.
        ArtifactError: the artifact cannot be read; something else stands at `out`; it cannot be written; or the export
            says something else than the model (more than `parity.BOUND` away): nothing is left then.
        DataError: the table cannot be read, or no row of it can be used.
    """
    if format not in get_args(Format):
        known = ", ".join(get_args(Format))
        raise ConfigError(
            f'export: format must be one of {known}, got "{format}"{did_you_mean(format, get_args(Format))}'
        )
    require(format)
    found, out = artifact.load(_folder(Path(source))), Path(out)
    with _beside(out) as fresh:
        graphs = graphs_of(found.model, found.preprocess)
        for name, graph in graphs.items():
            write(graph, fresh / f"{name}{ENDINGS[format]}", format)
        runners = {name: runner(format, fresh / f"{name}{ENDINGS[format]}", graph) for name, graph in graphs.items()}
        parity = compare(found, graphs, runners, None if data is None else Path(data))
        about = _about(found, format, graphs) | {"parity": parity}
        _write_settings(fresh, found)
        (fresh / "README.md").write_text(_readme(found, about), encoding="utf-8")
        about["files"] = {file.name: _sha256(file) for file in sorted(fresh.iterdir())}
        _write_json(fresh / "export.json", about)
    return Exported(out, about)


def is_export(folder: Path) -> bool:
    """Does export.json bear this format's mark (in any version)?"""
    try:
        about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        return str(about["format"]).startswith("polymodal-export")
    except (OSError, ValueError, TypeError, LookupError):
        return False


def _folder(source: Path) -> Path:
    return source / "artifact" if (source / "artifact").is_dir() else source


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new folder that becomes `out` if all goes well, and is removed if not.

    Raises:
        ArtifactError: something that is no export stands at `out`, or the disk is full or refuses.
    """
    if out.exists() and not is_export(out) and not (out.is_dir() and not any(out.iterdir())):
        raise ArtifactError(f'"{out}" exists and is not an export: it is not overwritten; choose another folder')
    fresh, old = (out.with_name(f".{out.name}.{what}-{os.getpid()}") for what in ("writing", "replaced"))
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if out.exists():
            out.rename(old)
        fresh.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise ArtifactError(f"{out}: cannot be written ({reason}); make room there, or choose another --out") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _about(found: Artifact, format: Format, graphs: Mapping[str, Graph]) -> dict[str, Any]:  # noqa: A002
    about: dict[str, Any] = {
        "format": FORMAT,
        "polymodal": __version__,
        "backend": format,
        "artifact": {"name": found.folder.name, "checksum": found.checksum, "kind": found.config.kind},
        "graphs": {
            name: {
                "file": f"{name}{ENDINGS[format]}",
                "inputs": [_port(port) for port in graph.inputs],
                "outputs": [_port(port) for port in graph.outputs],
            }
            for name, graph in graphs.items()
        },
    }
    if isinstance(found.model, Clip):
        bias = found.model.bias
        about |= {"scale": found.model.log_scale.exp().item(), "bias": None if bias is None else bias.item()}
    return about


def _port(port: Port) -> dict[str, Any]:
    shape = [one.name if isinstance(one, Axis) else one for one in port.shape]
    lengths = {one.name: [one.least, one.most] for one in port.shape if isinstance(one, Axis) and one.name != "batch"}
    return {"name": port.name, "dtype": port.dtype, "shape": shape} | ({"lengths": lengths} if lengths else {})


def _write_settings(fresh: Path, found: Artifact) -> None:
    _write_json(fresh / "preprocess.json", found.preprocess.to_dict())
    if found.tokenizer is not None:
        found.tokenizer.save(fresh)
    if isinstance(found.preprocess, Features):
        targets = found.preprocess.targets
        _write_json(
            fresh / "labels.json",
            {name: {"task": target.task, "classes": list(target.classes)} for name, target in targets.items()},
        )
    for name, sound in filters_of(found.preprocess).items():
        np.save(fresh / name, mel_filters(sound.rate, sound.window, sound.mels).numpy())


def _readme(found: Artifact, about: Mapping[str, Any]) -> str:
    backend: Format = about["backend"]
    clip = {key: about[key] for key in ("scale", "bias") if key in about}
    lines = code(backend, found.preprocess, found.tokenizer, **clip)
    packages = ["numpy", *(name for name in ("pillow", "tokenizers") if _IMPORTS[name] in lines), PACKAGES[backend]]
    worst = max(one["max"] for one in about["parity"]["outputs"].values())
    return f"""# {found.folder.name}, exported

Graphs of a polymodal model for {backend}. They run without polymodal; run these lines in this folder, with pictures and
words of your own (`pip install {" ".join(packages)}`):

```python
{lines}```

On {about["parity"]["source"]} the export differs from the model by {worst:.1g} at most. `export.json` says what goes in
and comes out, how it was compared, and the files' checksums; the artifact's checksum is
`{about["artifact"]["checksum"]}`.
"""


_IMPORTS = {"pillow": "from PIL", "tokenizers": "from tokenizers"}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
