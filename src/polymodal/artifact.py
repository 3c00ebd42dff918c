"""The artifact: the folder that training leaves and everything later takes. JSON and safetensors, never a pickle.

    config.json         format, version of polymodal, the model's config and, if it was compressed, its forms
    model.safetensors   the weights
    tokenizer.json      as the `tokenizers` library writes it
    preprocess.json     what pictures and texts, or a table's columns, go through before the model
    metrics.json        what was measured when it was saved
    recipe.yaml         the recipe that made it (when there was one)
    README.md           the model card
    SHA256SUMS          of all the files above, in the format of `sha256sum -c`

A folder is written beside its place and renamed into it, so that there is never half an artifact under its name.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from polymodal.card import Card, Use, write_card
from polymodal.config import write_yaml
from polymodal.errors import ArtifactError, ConfigError
from polymodal.features import Features
from polymodal.models.clip import Clip, ClipConfig
from polymodal.models.ensemble import ClipEnsembleConfig, Ensemble, EnsembleConfig
from polymodal.models.forms import Forms, apply_forms
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.preprocess import Preprocess
from polymodal.text import Tokenizer
from polymodal.version import __version__

FORMAT = "polymodal-artifact-1"
SUMS = "SHA256SUMS"
REQUIRED = ("config.json", "model.safetensors", "preprocess.json")
KNOWN = (*REQUIRED, "tokenizer.json", "metrics.json")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".onnx")  # endings of weight files
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")  # a name, never a path: nothing outside the folder is read


@dataclass(frozen=True)
class Problem:
    """One fault of an artifact's files."""

    file: str
    reason: str
    remedy: str = "copy the artifact again from where it came from, or train it again"

    def __str__(self) -> str:
        return f"{self.file} {self.reason}; {self.remedy}"


Model = Clip | Multimodal | Ensemble
ModelConfig = ClipConfig | MultimodalConfig | EnsembleConfig | ClipEnsembleConfig
# kind of the model -> its config, and what its inputs go through
FAMILIES: Mapping[str, tuple[type[ModelConfig], type[Preprocess | Features]]] = {
    "clip": (ClipConfig, Preprocess),
    "multimodal": (MultimodalConfig, Features),
    "ensemble": (EnsembleConfig, Features),
    "clip_ensemble": (ClipEnsembleConfig, Preprocess),
}


@dataclass(frozen=True)
class Artifact:
    folder: Path
    config: ModelConfig
    model: Model  # in eval mode
    tokenizer: Tokenizer | None
    preprocess: Preprocess | Features  # Features of a Multimodal
    metrics: dict[str, Any]
    checksum: str  # SHA-256 of SHA256SUMS: names this very artifact


def save(
    folder: str | Path,
    *,
    model: Model,
    tokenizer: Tokenizer | None,
    preprocess: Preprocess | Features,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    card: Card | None = None,
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Write an artifact; one that stands there already is replaced.

    Args:
        folder: where; its parents are made.
        model: its `config` and `forms` must describe it: weights that `load` could not place (LoRA not merged, say) are
            refused.
        metrics: plain values; what was measured on this model.
        recipe: the resolved recipe, kept as recipe.yaml.
        extra: further files, name -> text.

    Raises:
        ArtifactError: something that is not an artifact stands at `folder`, or the weights do not fit the config.
    """
    folder = Path(folder)
    if folder.exists() and not is_artifact(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ArtifactError(f'"{folder}" exists and is not an artifact: it is not overwritten; choose another folder')
    weights = {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}
    wanted = _skeleton(model.config, model.forms).state_dict()
    _refuse_misfits(f'"{folder}"', {name: tuple(weight.shape) for name, weight in wanted.items()}, weights)
    about = {"format": FORMAT, "polymodal": __version__, "model": model.config.to_dict()}
    if model.forms != Forms():
        about["forms"] = model.forms.to_dict()

    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    fresh.mkdir()
    try:
        _write_json(fresh / "config.json", about)
        save_file(model.forms.pack(weights), fresh / "model.safetensors", metadata={"format": "pt"})
        # safetensors lets nobody but the writer read its file.
        (fresh / "model.safetensors").chmod((fresh / "config.json").stat().st_mode)
        _write_json(fresh / "preprocess.json", preprocess.to_dict())
        _write_json(fresh / "metrics.json", dict(metrics or {}))
        if tokenizer is not None:
            tokenizer.save(fresh)
        if recipe is not None:
            write_yaml(fresh / "recipe.yaml", recipe)
        readme = write_card(
            folder.name,
            card or Card(),
            weights=sum(weight.numel() for weight in weights.values()),
            metrics=metrics or {},
            use=_use(model, tokenizer),
        )
        (fresh / "README.md").write_text(readme, encoding="utf-8")
        for name, text in (extra or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")
        sums = "".join(f"{_sha256(file)}  {file.name}\n" for file in sorted(fresh.iterdir()))
        (fresh / SUMS).write_text(sums, encoding="utf-8")
        _replace(folder, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def load(folder: str | Path) -> Artifact:
    """Read an artifact after every file's checksum was compared. Weights stay memory-mapped until they are changed.

    Raises:
        ArtifactError: names every missing, truncated or changed file, or what does not fit, and the remedy.
    """
    folder = Path(folder)
    problems = verify(folder)
    if problems:
        raise ArtifactError("\n".join(f'artifact "{folder}": {problem}' for problem in problems))
    about = _read_json(folder / "config.json")
    if about.get("format") != FORMAT:
        writer = about.get("polymodal", "unknown")
        raise ArtifactError(
            f'artifact "{folder}": config.json says format {about.get("format")!r} (by polymodal {writer}), '
            f"wanted {FORMAT!r}; read it with the polymodal that wrote it, or upgrade this one ({__version__})"
        )
    sizes = about.get("model", {})
    kind = sizes.get("kind", "clip") if isinstance(sizes, Mapping) else "clip"
    if kind not in FAMILIES:
        raise ArtifactError(
            f'artifact "{folder}": config.json: model.kind "{kind}" is not known to polymodal {__version__} (known: '
            f"{', '.join(FAMILIES)}); upgrade it"
        )
    model_config, settings = FAMILIES[kind]
    try:
        config = model_config.parse(sizes, where="config.json: model")
        forms = Forms.parse(about.get("forms", {}), where="config.json: forms")
        preprocess = settings.parse(_read_json(folder / "preprocess.json"), where="preprocess.json")
    except ConfigError as error:
        raise ArtifactError(f'artifact "{folder}": {error}; was it written by another polymodal?') from None
    metrics_file = folder / "metrics.json"
    return Artifact(
        folder=folder,
        config=config,
        model=_model(folder, config, forms),
        tokenizer=Tokenizer.load(folder) if (folder / "tokenizer.json").exists() else None,
        preprocess=preprocess,
        metrics=_read_json(metrics_file) if metrics_file.exists() else {},
        checksum=_sha256(folder / SUMS),
    )


def _use(model: Model, tokenizer: Tokenizer | None) -> Use:
    if isinstance(model, Multimodal | Ensemble):
        return "predict"
    return "zero-shot" if tokenizer is not None else "embed"


def is_artifact(folder: str | Path) -> bool:
    """Does config.json bear this format's mark (in any version)?"""
    try:
        about = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return str(about["format"]).startswith("polymodal-artifact")
    except (OSError, ValueError, TypeError, LookupError):
        return False


def verify(folder: str | Path) -> list[Problem]:
    """Every file's fault; an empty list when the folder holds exactly what was written."""
    folder = Path(folder)
    if not folder.is_dir():
        return [Problem("the folder", "does not exist", "check the path; `polymodal fit` prints where it left one")]
    if not (folder / SUMS).exists() and not is_artifact(folder):
        missing = ", ".join(name for name in (*REQUIRED, SUMS) if not (folder / name).exists())
        return [Problem("the folder", f"is not an artifact: it has no {missing}", "name the folder that fit printed")]
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return [Problem(SUMS, "is missing")]
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(SUMS, f"cannot be read ({error})")]
    matches = [_SUM_LINE.fullmatch(line) for line in lines]
    problems = [
        Problem(SUMS, f"is damaged in line {number}: wanted `checksum  name`")
        for number, match in enumerate(matches, 1)
        if match is None
    ]
    sums = {match[2]: match[1] for match in matches if match}
    problems += [Problem(SUMS, f"does not list {name}") for name in REQUIRED if name not in sums]
    problems += [problem for name, sum_ in sums.items() if (problem := _check(folder / name, sum_))]
    return problems + [
        Problem(file.name, f"is not listed in {SUMS}: it was added later", "move it out of the folder")
        for file in sorted(folder.iterdir())
        if file.name not in sums and (file.name in KNOWN or file.suffix.lower() in WEIGHTS)
    ]


def _check(file: Path, sum_: str) -> Problem | None:
    if not file.is_file():
        return Problem(file.name, "is missing")
    try:
        if _sha256(file) == sum_:
            return None
    except OSError as error:
        return Problem(file.name, f"cannot be read ({error.strerror})")
    remedy = Problem.remedy
    if file.suffix == ".md":  # the one file that people are meant to edit
        remedy = f"if the change was meant, put the output of `sha256sum {file.name}` into {SUMS}"
    return Problem(file.name, f"was changed or cut short after it was written ({file.stat().st_size:,} bytes)", remedy)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _skeleton(config: ModelConfig, forms: Forms) -> Model:
    """The model without memory for weights, in an instant."""
    with torch.device("meta"):
        model = config.build()
        apply_forms(model, forms)
    model.forms = forms
    return model


def _model(folder: Path, config: ModelConfig, forms: Forms) -> Model:
    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f'artifact "{folder}": model.safetensors cannot be read: {error}') from None
    try:
        model = _skeleton(config, forms)
    except ArtifactError as error:
        raise ArtifactError(f'artifact "{folder}": config.json: {error}') from None
    wanted = model.state_dict()
    _refuse_misfits(f'artifact "{folder}"', forms.shapes(wanted), weights)
    model.load_state_dict(forms.unpack(weights, wanted), assign=True)
    return model.eval()


def _refuse_misfits(where: str, wanted: Mapping[str, tuple[int, ...]], weights: Mapping[str, torch.Tensor]) -> None:
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    faults = []
    if missing := sorted(wanted.keys() - got.keys()):
        faults.append(f"{len(missing)} weights that the config wants are missing: {_first(missing)}")
    if homeless := sorted(got.keys() - wanted.keys()):
        faults.append(f"{len(homeless)} weights have no place in the config: {_first(homeless)}")
    shapes = [f"{name} {got[name]} (wanted {wanted[name]})" for name in sorted(wanted.keys() & got.keys())
              if wanted[name] != got[name]]  # fmt: skip
    if shapes:
        faults.append(f"{len(shapes)} weights have another shape: {_first(shapes)}")
    if faults:
        raise ArtifactError(f"{where}: model.safetensors does not fit config.json: {'; '.join(faults)}")


def _first(names: Iterable[str], count: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _replace(folder: Path, fresh: Path) -> None:
    """Put `fresh` where `folder` stands."""
    old = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """`value` with null in the place of infinities and not-a-numbers, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f'artifact "{file.parent}": {file.name} is not JSON: {error}') from None
    if not isinstance(data, dict):
        raise ArtifactError(f'artifact "{file.parent}": {file.name} holds a {type(data).__name__}, wanted an object')
    return data
