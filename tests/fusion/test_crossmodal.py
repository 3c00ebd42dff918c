"""Cross-modality layers: one module for both directions, both of which read the old states. Parity with transformers'
LXMERT stands in tests/parity."""

from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.fusion.crossmodal import CrossModalConfig
from polymodal.types import Fused, Tokens

SIZES: dict[str, Any] = {"width": 8, "layers": 2, "heads": 2}
ALL = torch.ones(2, dtype=torch.bool)


def some(length: int, seed: int) -> Tokens:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) < torch.tensor([[length], [length - 1]])
    return Tokens(torch.randn(2, length, 8, generator=draw), mask, torch.randn(2, 8, generator=draw))


def built() -> Any:
    torch.manual_seed(2)
    model = CrossModalConfig.parse(SIZES, "").build({"text": 8, "image": 8}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def fuse(model: Any, text: Tokens, image: Tokens, maps: bool = False) -> Fused:
    fused: Fused = model({"text": text, "image": image}, {"text": ALL, "image": ALL}, maps=maps)
    return fused


@torch.no_grad()
def test_inputs_that_trade_places_trade_states_when_their_own_layers_are_alike() -> None:
    """It holds only if both directions have the same weights and neither reads what the other has just become."""
    model, one, other = built(), some(4, 1), some(3, 2)
    model.blocks["image"].load_state_dict(model.blocks["text"].state_dict())
    found, turned = fuse(model, one, other), fuse(model, other, one)
    torch.testing.assert_close(found.tokens["text"].sequence, turned.tokens["image"].sequence)
    torch.testing.assert_close(found.tokens["image"].sequence, turned.tokens["text"].sequence)


@torch.no_grad()
def test_maps_are_shares_of_what_is_there() -> None:
    model, text, image = built(), some(4, 1), some(3, 2)
    fused = fuse(model, text, image, maps=True)
    assert list(fused.maps) == ["text->image.0", "image->text.0", "text->image.1", "image->text.1"]
    for name, seen in fused.maps.items():
        looked = image if name.startswith("text->") else text
        assert seen.shape == (2, 2, 7 - looked.mask.shape[1], looked.mask.shape[1])
        torch.testing.assert_close(seen.sum(-1), torch.ones(seen.shape[:3]))
        assert not seen.masked_select(~looked.mask[:, None, None, :].expand_as(seen)).any()
    plain = fuse(model, text, image)
    assert plain.maps == {}
    assert torch.equal(plain.pooled, fused.pooled)


@torch.no_grad()
def test_the_joint_state_is_read_at_the_first_text_token() -> None:
    model = built()
    fused = fuse(model, some(4, 1), some(3, 2))
    torch.testing.assert_close(fused.pooled, model.pooler[0](fused.tokens["text"].sequence[:, 0]).tanh())


def test_recomputation_gives_the_same_gradients() -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        model = built()
        for stack in model.blocks.values():
            stack.checkpoint = checkpoint
        fuse(model, some(4, 1), some(3, 2)).pooled.square().sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    for got, wanted in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(got, wanted)


def test_it_takes_two_inputs() -> None:
    with pytest.raises(ConfigError, match=r"exactly two inputs, got 3 \(a, b, c\)"):
        CrossModalConfig.parse(SIZES, "").build({"a": 8, "b": 8, "c": 8})


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"width must be a multiple of heads \(3\), got 8"):
        CrossModalConfig.parse(SIZES | {"heads": 3}, "crossmodal")
