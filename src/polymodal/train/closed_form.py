"""Locked towers brought together by solving for their projections: seconds, and no gradient.

Texts are whitened, so that what all captions share does not drown what tells them apart. Pictures go through kernel
ridge regression onto their captions' vectors (Saunders et al. 1998), with every training picture as a landmark. Where
the image tower brings a classifier, the vectors of its class names are added by its probabilities (Norouzi et al. 2014,
arXiv:1312.5650): what it knows of things that no training picture shows.

Shapes: N pictures, C captions, W and V widths of the image and text towers, D of the shared space (here V).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymodal.errors import ConfigError
from polymodal.layers.kernel import KernelProjection
from polymodal.models.clip import Clip, ClipConfig, KernelConfig
from polymodal.train.recipe import ClosedForm

MOST_LANDMARKS = 30_000  # 3.6 GB of likenesses


def with_projections(sizes: ClipConfig, closed_form: ClosedForm, landmarks: int) -> ClipConfig:
    """The sizes of a model whose projections `solve` can fill.

    Args:
        landmarks: how many training pictures there are; copies of them are landmarks too.

    Raises:
        ConfigError: there are too many pictures, or the image tower has no classifier for the class names.
    """
    landmarks *= 1 + closed_form.copies
    if landmarks > MOST_LANDMARKS:
        raise ConfigError(
            f"model.init.closed_form solves for at most {MOST_LANDMARKS:,} pictures and copies, got {landmarks:,}: its "
            "memory grows with their square; leave it out and train by gradients"
        )
    parts = getattr(sizes.image, "parts", (sizes.image.width,))
    classes = getattr(sizes.image, "classes", 0)
    if closed_form.class_names is not None and not classes:
        raise ConfigError(
            "model.init.closed_form.class_names: the image tower has no classifier; set model.init.image_levels=true "
            "with an EfficientNet-Lite, or leave class_names out"
        )
    kernel = KernelConfig(landmarks=landmarks, parts=parts, classes=classes, gamma=closed_form.gamma)
    projections = {"image_projection": kernel, "text_projection": "affine", "width": sizes.text.width}
    return sizes.model_copy(update=projections)


def class_names(path: str | Path, wanted: int) -> list[str]:
    """The names in a file, one a line.

    Raises:
        ConfigError: the file cannot be read, or does not hold `wanted` names.
    """
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.init.closed_form.class_names: {path} cannot be read ({error})") from None
    if len(names) != wanted:
        raise ConfigError(f"{path}: wanted the {wanted} class names of the image tower, one a line, got {len(names)}")
    return names


@torch.no_grad()
def solve(
    model: Clip,
    images: Tensor,
    captions: Tensor,
    owners: Tensor,
    closed_form: ClosedForm,
    classes: Tensor | None = None,
) -> None:
    """Fill the projections of `model`.

    Args:
        images: (N, W), what the image tower pools of each training picture and copy.
        captions: (C, V), what the text tower pools of each training caption.
        owners: (C,) int64, the picture of each caption.
        classes: (K, V), what the text tower pools of the classifier's class names.
    """
    texts, pictures = model.text_projection, model.image_projection
    assert isinstance(texts, nn.Linear)
    assert isinstance(pictures, KernelProjection)
    _whiten(texts, captions, closed_form.whiten)
    wanted = torch.zeros(len(images), texts.out_features).index_add_(0, owners, normalize(texts(captions), dim=-1))
    wanted = normalize(wanted, dim=-1)  # of several captions, the middle
    pictures.mean.copy_(images.mean(0))
    pictures.deviation.copy_(images.std(0) + 1e-6)
    places = pictures.place(images)
    pictures.landmarks.copy_(places)
    alike = pictures.likeness(places, places)
    alike.diagonal().add_(closed_form.ridge)
    pictures.weight.copy_(torch.cholesky_solve(wanted, torch.linalg.cholesky(alike)))
    if pictures.class_weight is not None and classes is not None:
        named = normalize(texts(classes), dim=-1)
        # Against the average picture, so that a picture of nothing known adds nothing.
        usual = pictures.probabilities(images).mean(0) @ named
        pictures.class_weight.copy_(closed_form.class_weight * (named - usual))


def _whiten(linear: nn.Linear, texts: Tensor, share: float) -> None:
    """Fill y = (x - mean) (covariance + share * largest eigenvalue)^(-1/2), for texts (C, V)."""
    mean = texts.mean(0)
    spread = (texts - mean).double()
    values, vectors = torch.linalg.eigh(spread.T @ spread / len(texts))
    matrix = (vectors * (values + share * values[-1]).rsqrt() @ vectors.T).float()
    linear.weight.copy_(matrix.T)
    linear.bias.copy_(-mean @ matrix)
