"""preprocessor_config.json, both ways."""

from pathlib import Path
from typing import Any

from polymodal.errors import ArtifactError
from polymodal.models.published.weights import read_json
from polymodal.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
HALF = (0.5, 0.5, 0.5)
# What transformers' image processor of each model type does where the file says nothing.
DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {"resample": 3, "do_center_crop": True, "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "chinese_clip": {"resample": 3, "do_center_crop": True, "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "siglip": {"resample": 3, "do_center_crop": False, "image_mean": HALF, "image_std": HALF},
    "vit": {"resample": 2, "do_center_crop": False, "image_mean": HALF, "image_std": HALF},
    # Theirs keeps a picture's shape and pads the batch; ours, square, squashes it.
    "vilt": {"resample": 3, "do_center_crop": False, "image_mean": HALF, "image_std": HALF},
}
PROCESSORS = {
    "clip": "CLIPImageProcessor",
    "chinese_clip": "ChineseCLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "vit": "ViTImageProcessor",
    "vilt": "ViltImageProcessor",
}


def read(folder: Path, model_type: str, image_size: int) -> ImagePreprocess:
    """What the folder's preprocessor_config.json asks for; the model type's defaults where it is silent or missing.

    Raises:
        ArtifactError: it asks for something that `ImagePreprocess` cannot do.
    """
    path = folder / "preprocessor_config.json"
    asked: dict[str, Any] = {"size": image_size, **DEFAULTS[model_type]} | (read_json(path) if path.is_file() else {})
    fit = "crop" if asked.get("do_center_crop") else "squash"
    size = _side(asked["size"], path)
    cropped = _side(asked.get("crop_size", size), path) if fit == "crop" else size
    if cropped != size:
        raise ArtifactError(
            f"{path}: resizing to {size}, then cropping to {cropped}, is not supported; make them equal"
        )
    if asked["resample"] not in INTERPOLATIONS:
        raise ArtifactError(f"{path}: resample must be 2 (bilinear) or 3 (bicubic), got {asked['resample']}")
    normalizes = asked.get("do_normalize", True)
    return ImagePreprocess.parse(
        {
            "size": size,
            "fit": fit,
            "interpolation": INTERPOLATIONS[asked["resample"]],
            "mean": asked["image_mean"] if normalizes else (0.0, 0.0, 0.0),
            "std": asked["image_std"] if normalizes else (1.0, 1.0, 1.0),
        },
        str(path),
    )


def _side(size: Any, path: Path) -> int:
    if isinstance(size, dict):
        sides = {size[key] for key in ("shortest_edge", "height", "width") if size.get(key) is not None}
        if len(sides) != 1:
            raise ArtifactError(f"{path}: only square pictures are supported, got size {size}")
        size = sides.pop()
    return int(size)


def written(preprocess: ImagePreprocess, model_type: str) -> dict[str, Any]:
    side, square = preprocess.size, {"height": preprocess.size, "width": preprocess.size}
    crop = preprocess.fit == "crop"
    return {
        "image_processor_type": PROCESSORS[model_type],
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side} if crop or model_type == "vilt" else square,
        "do_center_crop": crop,
        **({"crop_size": square} if crop else {}),
        "resample": next(number for number, name in INTERPOLATIONS.items() if name == preprocess.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
