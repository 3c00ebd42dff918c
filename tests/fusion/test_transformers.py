"""Cross-attention, bottleneck tokens and MulT against their formulas, one row and one token at a time."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from polymodal.errors import ConfigError, ShapeError
from polymodal.fusion.bottleneck import BottleneckConfig
from polymodal.fusion.cross_attention import CrossAttentionConfig
from polymodal.fusion.multimodal_transformer import MultConfig, may_look, with_positions
from polymodal.types import Fused, Tokens
from tests.fusion.small import LENGTHS, built, here, join, tokens


def normed(norm: Any, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def look(heads: int, q: Tensor, k: Tensor, v: Tensor, allowed: list[list[int]] | None = None) -> Tensor:
    """Attention of (L, D) to (S, D), query by query, head by head; `allowed`: places that each query may see."""
    size, out = q.shape[-1] // heads, torch.zeros_like(q)
    for step in range(len(q)):
        places = list(range(len(k))) if allowed is None else allowed[step]
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = torch.stack([q[step, part] @ k[place, part] / math.sqrt(size) for place in places])
            shares = scores.exp() / scores.exp().sum()
            out[step, part] = sum(share * v[place, part] for share, place in zip(shares, places, strict=True))
    return out


def cross(block: Any, x: Tensor, seen: Tensor, allowed: list[list[int]] | None = None) -> Tensor:
    attention, source = block.attention, normed(block.norm1, seen)
    key, value = (source @ attention.kv.weight.T + attention.kv.bias).chunk(2, -1)
    query = normed(block.norm1, x) @ attention.q.weight.T + attention.q.bias
    x = x + attention.out(look(attention.heads, query, key, value, allowed))
    out: Tensor = x + block.mlp(normed(block.norm2, x))
    return out


def own(block: Any, x: Tensor, allowed: list[list[int]] | None = None) -> Tensor:
    attention = block.attention
    query, key, value = (normed(block.norm1, x) @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, -1)
    x = x + attention.out(look(attention.heads, query, key, value, allowed))
    out: Tensor = x + block.mlp(normed(block.norm2, x))
    return out


def real(given: dict[str, Tokens], fusion: Any, row: int) -> dict[str, Tensor]:
    """Each input's real tokens of one row, projected: (L, D)."""
    linears = fusion.project.linears
    return {name: linears[name](one.sequence[row][one.mask[row]]) for name, one in given.items()}


@torch.no_grad()
def test_cross_attention_is_its_formula() -> None:
    config = CrossAttentionConfig(query="text", width=8, layers=2, heads=2)
    parts, given = built(config), tokens(config)
    fusion, fused = parts[0], join(parts, given)
    for row in range(3):
        states = real(given, fusion, row)
        x, seen = states["text"], torch.cat([states["image"], states["record"]])
        for block in fusion.encoder.blocks:
            x = cross(block, x, seen)
        x = normed(fusion.encoder.norm, x)
        torch.testing.assert_close(fused.tokens["text"].sequence[row, : len(x)], x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fused.pooled[row], x.mean(0), rtol=1e-4, atol=1e-5)
    assert fused.tokens["image"] is given["image"]


@torch.no_grad()
def test_looks_at_all_others_together_add_up_to_one() -> None:
    config = CrossAttentionConfig(width=8, layers=2, heads=2)  # the first input, the image, asks
    maps = join(built(config), tokens(config), maps=True).maps
    assert list(maps) == ["image->text.0", "image->record.0", "image->text.1", "image->record.1"]
    assert maps["image->text.1"].shape == (3, 2, 4, 4)
    assert not maps["image->text.0"][0, :, :, 2:].any()  # the first text has two tokens
    together = maps["image->text.0"].sum(-1) + maps["image->record.0"].sum(-1)
    torch.testing.assert_close(together, torch.ones(3, 2, 4))


@torch.no_grad()
def test_bottlenecks_are_the_mean_of_what_each_input_made_of_them() -> None:
    config = BottleneckConfig(width=8, separate=1, layers=2, heads=2, bottlenecks=3)
    parts, given = built(config), tokens(config)
    fusion = parts[0]
    fused = join(parts, given, here(given, {"record": [1]}))
    for row in range(3):
        names = ["image", "text"] if row == 1 else list(given)  # an absent input is left out of the means
        places = {name: place for place, name in enumerate(given)}
        states = {
            name: torch.cat([fusion.class_tokens[places[name]][None], x])
            for name, x in real(given, fusion, row).items()
            if name in names
        }
        states = {name: own(fusion.stacks[places[name]][0], x) for name, x in states.items()}
        shared = fusion.bottlenecks
        for number in (1, 2):
            made = {
                name: own(fusion.stacks[places[name]][number], torch.cat([x, shared])) for name, x in states.items()
            }
            states = {name: x[:-3] for name, x in made.items()}
            shared = torch.stack([x[-3:] for x in made.values()]).mean(0)
        firsts = [normed(fusion.norms[places[name]], x)[0] for name, x in states.items()]
        torch.testing.assert_close(fused.pooled[row], torch.stack(firsts).mean(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_bottlenecks_nothing_of_one_input_reaches_the_others_states() -> None:
    """What passes in the first of two layers is read in the second, and there only through the bottlenecks."""
    config = BottleneckConfig(width=8, layers=2, heads=2)
    parts, given = built(config), tokens(config)
    other = given | {"text": given["text"]._replace(sequence=given["text"].sequence + 1)}
    assert not torch.allclose(join(parts, given).tokens["image"].sequence, join(parts, other).tokens["image"].sequence)
    for block in (block for stack in parts[0].stacks for block in stack):
        block.attention.out.weight.zero_()  # nobody looks at anybody
    assert torch.equal(join(parts, given).tokens["image"].sequence, join(parts, other).tokens["image"].sequence)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_mult_is_its_formula(causal: bool) -> None:
    config = MultConfig(stream=4, layers=2, heads=2, causal=causal)
    parts, given = built(config), tokens(config)
    fusion, fused, names = parts[0], join(parts, given), list(given)
    for row in range(3):
        streams = {name: positioned(x) for name, x in real(given, fusion, row).items()}
        last = []
        for target, encoders, memory in zip(names, fusion.crossed, fusion.memories, strict=True):
            retold = []
            for source, encoder in zip([name for name in names if name != target], encoders, strict=True):
                x, length, steps = streams[target], len(streams[target]), len(streams[source])
                for block in encoder.blocks:
                    x = cross(block, x, streams[source], seen_by(length, steps, causal))
                retold.append(normed(encoder.norm, x))
            x = positioned(torch.cat(retold, -1))
            assert len(memory.blocks) == 3
            for block in memory.blocks:
                x = own(block, x, seen_by(len(x), len(x), causal))
            last.append(normed(memory.norm, x)[LENGTHS[target][row] - 1])
        joint = torch.cat(last)
        first, _, _, second = fusion.residual
        wanted = joint + second(first(joint).clamp(min=0))
        torch.testing.assert_close(fused.pooled[row], wanted, rtol=1e-4, atol=1e-5)


def positioned(x: Tensor) -> Tensor:
    """(L, D): √D x + sin(p f_i) in the first half, cos(p f_i) in the second, f_i = 10000^(-i / (D/2 - 1))."""
    length, width = x.shape
    half, rows = width // 2, []
    for place in range(length):
        angles = [place * 10000 ** (-i / max(half - 1, 1)) for i in range(half)]
        rows.append([*map(math.sin, angles), *map(math.cos, angles), *[0.0] * (width % 2)])
    return math.sqrt(width) * x + torch.tensor(rows)


def seen_by(length: int, steps: int, causal: bool) -> list[list[int]]:
    surplus = abs(steps - length)
    return [[s for s in range(steps) if not causal or s <= step + surplus] for step in range(length)]


@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_positions_of_any_width(width: int) -> None:
    x = torch.randn(2, 6, width)
    torch.testing.assert_close(with_positions(x)[1], positioned(x[1]), rtol=1e-4, atol=1e-5)


def test_a_step_whose_first_feature_is_zero_is_a_step() -> None:
    """The reference code takes it for padding and gives it no position."""
    x = torch.ones(1, 3, 4)
    x[0, 1, 0] = 0
    assert with_positions(x)[0, 1].tolist() == pytest.approx(positioned(x[0])[1].tolist())


def test_a_causal_step_sees_what_came_before_by_the_rows_own_length() -> None:
    target, source = torch.tensor([[True, True, False]]), torch.tensor([[True, True, True, False, False]])
    assert may_look(target, source, True)[0, 0].int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert may_look(target, source, False)[0, 0].int().tolist() == [[1, 1, 1, 0, 0]]
    nothing_yet = may_look(torch.tensor([[True, True]]), torch.tensor([[False, True]]), True)
    assert nothing_yet[0, 0].int().tolist() == [[0, 1], [0, 1]]  # |1 - 2| steps of surplus
    assert may_look(torch.tensor([[True]]), torch.tensor([[False]]), True).all()


@torch.no_grad()
def test_attention_of_mult_comes_by_target_source_and_layer() -> None:
    config = MultConfig(stream=4, layers=2, heads=2)
    maps = join(built(config), tokens(config), maps=True).maps
    assert len(maps) == 3 * 2 * 2
    assert maps["text->image.1"].shape == (3, 2, 4, 4)
    torch.testing.assert_close(maps["record->text.0"].sum(-1), torch.ones(3, 2, 4))
    assert not maps["record->text.0"][0, :, :, 2:].any()


@pytest.mark.parametrize(
    "config",
    [
        CrossAttentionConfig(width=8, heads=2),
        BottleneckConfig(width=8, separate=1, heads=2),
        MultConfig(stream=4, layers=1, heads=2, dropout=0, embed_dropout=0),
    ],
)
def test_recomputing_activations_changes_memory_only(config: Any) -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        (model, missing), given = built(config), tokens(config)
        stacks = [module for module in model.modules() if hasattr(module, "checkpoint")]
        assert stacks
        for stack in stacks:
            stack.checkpoint = checkpoint
        join((model.train(), missing), given).pooled.square().sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (CrossAttentionConfig, {"width": 10, "heads": 4}, "width must be a multiple of heads .4., got 10"),
        (BottleneckConfig, {"width": 10, "heads": 4}, "width must be a multiple of heads .4., got 10"),
        (MultConfig, {"stream": 10, "heads": 4}, "stream must be a multiple of heads .4., got 10"),
        (BottleneckConfig, {"layers": 1}, "layers: .* greater than or equal to 2, got 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind: Any, settings: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind.parse(settings, "fusion")


@pytest.mark.parametrize("config", [CrossAttentionConfig(), BottleneckConfig(), MultConfig()])
def test_one_input_has_nobody_to_look_at(config: Any) -> None:
    with pytest.raises(ConfigError, match=f'fusion "{config.kind}" must have at least 2 inputs, got image'):
        config.build({"image": 8})


def test_a_query_that_is_no_input_is_refused() -> None:
    with pytest.raises(ConfigError, match='fusion "cross_attention": query must be one of image, text, got "sound"'):
        CrossAttentionConfig(query="sound").build({"image": 3, "text": 3})


def test_tokens_narrower_than_the_vector_are_refused() -> None:
    """An encoder that reads several levels has a wide vector; what looks at tokens cannot use it."""
    fusion = BottleneckConfig(width=8, heads=2).build({"image": 9, "text": 4})
    given = tokens(BottleneckConfig())

    def run() -> Fused:
        fused: Fused = fusion({name: given[name] for name in ("image", "text")}, here(given))
        return fused

    with pytest.raises(ShapeError, match=r'tokens of "image" must be as wide as its vector \(9\), got 8; choose'):
        run()


def test_a_dropout_of_the_config_is_used() -> None:
    for config in (CrossAttentionConfig(dropout=0.25), BottleneckConfig(dropout=0.25), MultConfig(dropout=0.25)):
        fusion = config.build({"image": 8, "text": 4})
        rates = {module.p for module in fusion.modules() if isinstance(module, nn.Dropout)}
        assert 0.25 in rates
