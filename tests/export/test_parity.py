from typing import Any

import numpy as np
import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.export.graphs import answer, arrays_of, graphs_of, normalizing
from polymodal.export.parity import Compared
from polymodal.features import Target
from polymodal.metrics.supervised import probabilities
from polymodal.preprocess import ImagePreprocess
from polymodal.types import Text
from tests import tiny
from tests.export import small


def test_differences_are_counted_over_all_batches() -> None:
    part = Compared([np.array([[1.0, -4.0]]), np.array([[0.0]])], [np.array([[1.5, -4.0]]), np.array([[0.25]])])
    assert part.differences() == {"max": 0.5, "mean": 0.25, "largest": 4.0}


def test_neighbors_are_the_nearest_other_rows() -> None:
    wanted = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])  # cosines: 0-1 0.8, 1-2 0.6, 0-2 0
    moved = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # now row 1 is nearer to row 2
    assert Compared([wanted], [wanted]).neighbors() == 1
    assert Compared([wanted], [moved]).neighbors() == pytest.approx(2 / 3)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "soft"])
def test_answers_are_those_of_the_metrics(task: Any) -> None:
    classes = ("a", "b") if task == "binary" else ("a", "b", "c", "d")
    target = Target(columns=("x",), task=task, classes=classes, temperature=1.7)
    logits = torch.randn(6, target.outputs, generator=torch.Generator().manual_seed(1)) * 3
    wanted = probabilities(target.task, logits / target.temperature)
    np.testing.assert_allclose(answer(target, logits).numpy(), wanted, atol=1e-6)


def test_normalization_is_part_of_the_first_convolution() -> None:
    torch.manual_seed(2)
    settings = ImagePreprocess(size=16)
    for bias in (True, False):
        plain = torch.nn.Conv2d(3, 5, 8, 8, bias=bias)
        pixels = tiny.pixels()
        found = normalizing(plain, settings)(pixels.float())
        torch.testing.assert_close(found, plain(settings.normalize(pixels)), atol=1e-5, rtol=1e-5)


def test_graphs_share_the_weights_and_say_what_the_model_says() -> None:
    model, pixels, text = tiny.clip(), tiny.pixels(), tiny.text()
    graphs = graphs_of(model, tiny.preprocess())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert {one.data_ptr() for one in graphs["text"].parameters()} <= own
    images: Any = graphs["image"].run({"pixels": pixels.numpy()})["vectors"]
    with torch.no_grad():
        wanted = model.embed_image(tiny.preprocess().image.normalize(pixels)), model.embed_text(text)
    np.testing.assert_allclose(images, wanted[0].numpy(), atol=1e-6)
    texts: Any = graphs["text"].run({"ids": text.ids.numpy(), "mask": text.mask.numpy()})["vectors"]
    np.testing.assert_allclose(texts, wanted[1].numpy(), atol=1e-6)


def test_a_model_and_the_settings_of_another_kind_are_refused() -> None:
    _, features = small.words()
    with pytest.raises(ConfigError, match="got a Clip with Features"):
        graphs_of(tiny.clip(), features)


def test_a_batch_is_flat_arrays() -> None:
    text = Text(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool))
    flat = arrays_of({"photo": tiny.pixels(2), "notes": text}, {"photo": torch.ones(2) > 0, "notes": torch.ones(2) > 0})
    assert sorted(flat) == ["notes.ids", "notes.mask", "photo", "present.notes", "present.photo"]
