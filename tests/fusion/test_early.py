"""Early fusion: against one BERT over both inputs, how it pools, what its maps say."""

from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.encoders.bert import BertConfig
from polymodal.errors import ConfigError
from polymodal.fusion.early import EarlyConfig
from polymodal.types import Fused, Text, Tokens

SIZES: dict[str, Any] = {"width": 8, "layers": 2, "heads": 2}
ALL = torch.ones(3, dtype=torch.bool)


def given() -> dict[str, Tokens]:
    """Texts of 5, 3 and 1 tokens, pictures of 4."""
    draw = torch.Generator().manual_seed(1)
    made = {}
    for name, lengths in (("text", (5, 3, 1)), ("image", (4, 4, 4))):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        made[name] = Tokens(torch.randn(3, max(lengths), 8, generator=draw), mask, torch.randn(3, 8, generator=draw))
    return made


def built(**changes: Any) -> Any:
    torch.manual_seed(2)
    model = EarlyConfig.parse(SIZES | changes, "").build({"text": 8, "image": 8}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def fuse(model: Any, tokens: dict[str, Tokens], present: dict[str, Tensor] | None = None, maps: bool = False) -> Fused:
    fused: Fused = model(tokens, present or dict.fromkeys(tokens, ALL), maps=maps)
    return fused


@torch.no_grad()
def test_two_texts_without_types_are_one_text_to_bert() -> None:
    """Its first half as one input, its second as another: the tables of BERT, then what is left of it as the fusion."""
    torch.manual_seed(3)
    bert = BertConfig(vocab_size=20, max_length=6, pool="pooler", **SIZES).build().eval()
    model = built(norm="post", types=False, input_norm=True, pool="pooler")
    model.load_state_dict(
        {
            name.replace("norm.", "input_norm.", 1) if name.startswith("norm.") else name: weight
            for name, weight in bert.state_dict().items()
            if name.startswith(("norm.", "blocks.", "pooler."))
        }
    )
    text = Text(torch.randint(0, 20, (3, 6)), torch.arange(6) < torch.tensor([[6], [4], [5]]))
    table = bert.embedding(text.ids) + bert.positions + bert.segments[0]
    halves = {
        name: Tokens(table[:, half], text.mask[:, half], table[:, 0])
        for name, half in (("text", slice(3)), ("image", slice(3, 6)))
    }
    fused, wanted = fuse(model, halves), bert(text)
    torch.testing.assert_close(fused.pooled, wanted.pooled)
    states = torch.cat([fused.tokens[name].sequence for name in halves], dim=1)
    torch.testing.assert_close(states[text.mask], wanted.sequence[text.mask])


@torch.no_grad()
def test_each_input_has_a_type_of_its_own() -> None:
    model, tokens = built(pool="mean"), given()
    turned = {"text": tokens["image"], "image": tokens["text"]}
    assert not torch.allclose(fuse(model, tokens).pooled, fuse(model, turned).pooled)
    model.types[1] = model.types[0]
    torch.testing.assert_close(fuse(model, tokens).pooled, fuse(model, turned).pooled)


@torch.no_grad()
def test_pooling_reads_the_places_that_it_says() -> None:
    tokens = given()
    present = {"text": torch.tensor([True, True, False]), "image": ALL}
    found = {pool: fuse(built(pool=pool), tokens, present) for pool in ("cls", "last_word", "mean")}
    states = {name: one.sequence for name, one in found["cls"].tokens.items()}
    assert torch.equal(found["cls"].pooled, states["text"][:, 0])
    # The token before the last; the only one where there is no other.
    assert torch.equal(found["last_word"].pooled, states["text"][[0, 1, 2], [3, 1, 0]])
    row1 = torch.cat([states["text"][1, :3], states["image"][1]]).mean(0)
    torch.testing.assert_close(found["mean"].pooled[1], row1)
    torch.testing.assert_close(found["mean"].pooled[2], states["image"][2].mean(0))


@torch.no_grad()
def test_maps_are_shares_of_what_is_there() -> None:
    model, tokens = built(), given()
    fused = fuse(model, tokens, maps=True)
    assert list(fused.maps) == ["attention.0", "attention.1"]
    mask = torch.cat([one.mask for one in tokens.values()], dim=1)
    for seen in fused.maps.values():
        assert seen.shape == (3, 2, 9, 9)
        torch.testing.assert_close(seen.sum(-1), torch.ones(3, 2, 9))
        assert not seen.masked_select(~mask[:, None, None, :].expand_as(seen)).any()
    plain = fuse(model, tokens)
    assert plain.maps == {}
    assert torch.equal(plain.pooled, fused.pooled)


def test_recomputation_gives_the_same_gradients() -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        model = built()
        model.blocks.checkpoint = checkpoint
        fuse(model, given()).pooled.square().sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    for got, wanted in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"width must be a multiple of heads \(3\), got 8"):
        EarlyConfig.parse(SIZES | {"heads": 3}, "early")
