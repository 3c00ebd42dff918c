"""Projections that are solved for: against scikit-learn's kernel ridge, by what whitening means, and through `fit`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor
from torch.nn.functional import normalize

import polymodal as pm
from polymodal import artifact
from polymodal.data.manifest import Manifest
from polymodal.encoders.efficientnet_lite import EfficientNetLiteConfig
from polymodal.errors import ConfigError
from polymodal.layers.kernel import KernelProjection
from polymodal.models.clip import Clip, ClipConfig
from polymodal.train import fit
from polymodal.train.closed_form import class_names, solve, with_projections
from polymodal.train.recipe import ClosedForm
from tests import tiny
from tests.train import toy

CLASSES, COUNT = 5, 9
LITE = EfficientNetLiteConfig(
    image_size=32, width_multiplier=0.2, depth_multiplier=0.5, head_width=6, pool="levels", classes=CLASSES
)


def draw(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(closed_form: ClosedForm, image: EfficientNetLiteConfig = LITE) -> Clip:
    sizes = ClipConfig(image=image, text=tiny.text_config())
    return with_projections(sizes, closed_form, COUNT).build()


def test_it_is_kernel_ridge_regression_onto_the_whitened_captions() -> None:
    closed_form = ClosedForm(gamma=0.7, ridge=0.3)
    clip = model(closed_form)
    images, captions = 2 + 3 * draw(COUNT, LITE.width), 1 + draw(COUNT, clip.config.text.width, seed=4)
    solve(clip, images, captions, torch.arange(COUNT), closed_form)

    parts = np.split((images - images.mean(0)).numpy() / images.std(0).numpy(), np.cumsum(LITE.parts)[:-1], axis=1)
    placed = np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts[:-1]]) / np.sqrt(2)
    wanted = normalize(clip.text_projection(captions), dim=-1).detach().numpy()
    oracle = KernelRidge(alpha=0.3, kernel="rbf", gamma=0.7).fit(placed, wanted)
    found = clip.image_projection(images).detach().numpy()
    np.testing.assert_allclose(found, oracle.predict(placed), atol=1e-4)


def test_whitened_captions_have_no_mean_and_no_favourite_direction() -> None:
    closed_form = ClosedForm(whiten=1e-6)
    clip = model(closed_form)
    width = clip.config.text.width
    captions = 5 + draw(400, width, seed=4) * torch.linspace(1, 3, width)
    solve(clip, draw(COUNT, LITE.width), captions, torch.arange(400) % COUNT, closed_form)
    white = clip.text_projection(captions).detach()
    torch.testing.assert_close(white.mean(0), torch.zeros(width), atol=1e-3, rtol=0)
    torch.testing.assert_close(white.T @ white / 400, torch.eye(width), atol=1e-2, rtol=0)


def test_a_class_that_is_sure_pulls_the_picture_to_its_name() -> None:
    closed_form = ClosedForm(class_weight=50.0)
    clip = model(closed_form)
    width = clip.config.text.width
    images, names = draw(COUNT, LITE.width), draw(CLASSES, width, seed=6)
    solve(clip, images, draw(COUNT, width, seed=4), torch.arange(COUNT), closed_form, names)
    sure = images.clone()
    sure[:, -CLASSES:] = images[:, -CLASSES:].mean(0)
    sure[:, -2] += 40  # the last class but one
    vectors = normalize(clip.image_projection(sure), dim=-1)
    named = normalize(clip.text_projection(names), dim=-1)
    assert (vectors @ named.T).argmax(1).tolist() == [CLASSES - 2] * COUNT


def test_several_captions_of_a_picture_meet_in_their_middle() -> None:
    closed_form = ClosedForm(ridge=1e-6)
    clip = model(closed_form)
    captions = draw(2 * COUNT, clip.config.text.width, seed=4)
    images = draw(COUNT, LITE.width)
    solve(clip, images, captions, torch.arange(2 * COUNT) % COUNT, closed_form)
    white = normalize(clip.text_projection(captions), dim=-1)
    middle = normalize(white[:COUNT] + white[COUNT:], dim=-1)
    torch.testing.assert_close(normalize(clip.image_projection(images), dim=-1), middle, atol=1e-3, rtol=0)


def test_a_projection_of_other_parts_than_the_tower_gives_is_refused() -> None:
    sizes = with_projections(ClipConfig(image=LITE, text=tiny.text_config()), ClosedForm(), COUNT)
    other = sizes.model_copy(update={"image": LITE.model_copy(update={"head_width": 8})})
    with pytest.raises(ConfigError, match="do not make up the tower's"):
        other.build()


def test_likeness_is_one_to_itself_and_falls_with_distance() -> None:
    layer = KernelProjection((2,), 0, shared=1, landmarks=1, gamma=0.5, temperature=1.0)
    places = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = torch.tensor([[0.0], [-1.0], [-2.0]]).exp()  # squared distances 0, 2, 4
    torch.testing.assert_close(layer.likeness(places, places[:1]), expected)


def test_more_pictures_than_memory_can_compare_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 30,000 pictures and copies, got 40,000"):
        with_projections(ClipConfig(image=LITE, text=tiny.text_config()), ClosedForm(copies=1), 20_000)


def test_class_names_need_a_classifier() -> None:
    plain = LITE.model_copy(update={"classes": 0})
    with pytest.raises(ConfigError, match=r"no classifier; set model\.init\.image_levels=true"):
        model(ClosedForm(class_names="names.txt"), plain)


def test_a_file_of_class_names_must_hold_one_a_class(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("a cat\n\na dog\n", encoding="utf-8")
    assert class_names(file, 2) == ["a cat", "a dog"]
    with pytest.raises(ConfigError, match="wanted the 5 class names of the image tower, one a line, got 2"):
        class_names(file, 5)
    with pytest.raises(ConfigError, match="cannot be read"):
        class_names(tmp_path / "none.txt", 5)


def test_a_run_of_locked_towers_starts_from_the_solution_and_can_be_used(tmp_path: Path) -> None:
    recipe = toy.recipe(toy.table(tmp_path, count=40), epochs=1, lr=1e-9, ema=None)
    recipe["trainer"]["freeze"] = ["image_encoder", "text_encoder"]
    recipe["model"] |= {"init": {"closed_form": {"copies": 1, "ridge": 1e-3}}}
    done = fit(recipe, out=tmp_path / "run")
    clip = artifact.load(done.artifact).model
    assert isinstance(clip.image_projection, KernelProjection)
    assert len(clip.image_projection.landmarks) == 2 * done.plan["rows"]["train"]
    engine = pm.load(done.folder)
    manifest = Manifest.read(tmp_path / "pairs.csv")
    rows = range(0, 40, 3)
    images = engine.embed(images=[manifest.root / str(manifest.image_reference(row)) for row in rows])
    texts = engine.embed(texts=[manifest.captions(row)[0] for row in rows])
    own = (images * texts).sum(1)
    assert own.mean() > (images @ texts.T).mean() + 0.3  # untrained towers, yet training pictures find their captions


def test_a_run_whose_towers_learn_cannot_be_solved_for(tmp_path: Path) -> None:
    recipe = toy.recipe(toy.table(tmp_path, count=20))
    recipe["model"] |= {"init": {"closed_form": {}}}
    with pytest.raises(ConfigError, match=r"closed_form needs towers that are locked .* trainer\.freeze="):
        fit(recipe, out=tmp_path / "run")
