"""LXMERT, ViLT and VisualBERT as compositions: from pixels, with rows that lack an input, with heads of one's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.models.heads import LinearHead
from polymodal.models.lxmert import lxmert, lxmert_tiny
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.vilt import vilt, vilt_tiny
from polymodal.models.visualbert import visualbert, visualbert_tiny
from polymodal.types import Regions, Text

TINY = pytest.mark.parametrize("tiny", [lxmert_tiny, vilt_tiny, visualbert_tiny])
SMALL: dict[str, Any] = {"vocab_size": 50, "width": 16, "heads": 2}
FROM_REGIONS = {
    "lxmert": lambda **more: lxmert(
        **SMALL, text_layers=1, image_layers=1, cross_layers=1, feature_width=6, dropout=0.0, **more
    ),
    "visualbert": lambda **more: visualbert(**SMALL, layers=1, feature_width=6, dropout=0.0, **more),
}


def text() -> Text:
    ids = torch.randint(1, 50, (3, 6), generator=torch.Generator().manual_seed(1))
    return Text(ids, torch.arange(6) < torch.tensor([[6], [2], [4]]))


@TINY
def test_the_tiny_one_runs_from_pixels_and_learns_with_every_weight(tiny: Callable[..., MultimodalConfig]) -> None:
    torch.manual_seed(0)
    model = tiny(vocab_size=50, image_size=32).build()
    pixels = torch.randn(3, 3, 32, 32)
    present = {"text": torch.tensor([True, True, False]), "image": torch.tensor([True, False, True])}
    out = model({"text": text(), "image": pixels}, present)
    states = sum(one.sequence.square().sum() for one in out.fused.tokens.values())
    (out.fused.pooled.square().sum() + states).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert {name.split(".")[0] for name in without} == {"pretraining"}


@TINY
@torch.no_grad()
def test_rows_that_lack_an_input_have_an_answer(tiny: Callable[..., MultimodalConfig]) -> None:
    torch.manual_seed(0)
    model = tiny(vocab_size=50, image_size=32).build().eval()
    pixels = torch.randn(3, 3, 32, 32)
    for given in ({"text": text()}, {"image": pixels}):
        assert torch.isfinite(model(given).fused.pooled).all()
    present = {"text": torch.ones(3, dtype=torch.bool), "image": torch.tensor([True, True, False])}
    noisy = pixels.clone()
    noisy[2] = float("nan")
    found = [model({"text": text(), "image": image}, present).fused.pooled for image in (pixels, noisy)]
    assert torch.equal(*found)


@TINY
def test_the_config_survives_json(tiny: Callable[..., MultimodalConfig]) -> None:
    config = tiny()
    assert MultimodalConfig.parse(config.to_dict(), "") == config


@pytest.mark.parametrize("name", FROM_REGIONS)
@torch.no_grad()
def test_regions_are_read_and_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = FROM_REGIONS[name](targets={"answer": LinearHead(outputs=4)}).build().eval()
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    regions = Regions(torch.randn(3, 5, 6), torch.tensor([0.1, 0.2, 0.5, 0.9]).expand(3, 5, 4), mask)
    wanted = model({"text": text(), "image": regions}).predictions["answer"]
    assert wanted.shape == (3, 4)
    noisy = regions._replace(features=regions.features.masked_fill(~mask[:, :, None], 9.0))
    torch.testing.assert_close(model({"text": text(), "image": noisy}).predictions["answer"], wanted)


def test_what_does_not_fit_is_said_when_the_config_is_made() -> None:
    with pytest.raises(ConfigError, match=r"vilt: .*width must be a multiple of heads \(5\), got 768"):
        vilt(heads=5)
    with pytest.raises(ConfigError, match=r"lxmert: layers: .*greater than or equal to 1, got 0"):
        lxmert(cross_layers=0)
    with pytest.raises(ConfigError, match=r"visualbert: segments: .*greater than or equal to 2, got 1"):
        visualbert(segments=1)
