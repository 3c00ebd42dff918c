"""Heads: what they read, in which order, and what several of them share."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.heads import Heads, HeadsConfig
from polymodal.types import Fused, Tokens

W, ENCODER, TOKEN = 6, 5, 4


def heads(sharing: str | dict[str, Any] = "hard", **targets: dict[str, Any]) -> Heads:
    share = {"kind": sharing} if isinstance(sharing, str) else sharing
    torch.manual_seed(0)
    return HeadsConfig.parse({"targets": targets, "sharing": share}, "heads").build(
        W, {"text": TOKEN}, {"text": ENCODER}
    )


def tokens(width: int, rows: int = 3, length: int = 7) -> Tokens:
    draw = torch.Generator().manual_seed(width)
    sequence = torch.randn(rows, length, width, generator=draw)
    return Tokens(sequence, torch.ones(rows, length, dtype=torch.bool), sequence[:, 0])


def state(rows: int = 3) -> tuple[Fused, dict[str, Tokens]]:
    pooled = torch.randn(rows, W, generator=torch.Generator().manual_seed(1))
    return Fused(pooled, {"text": tokens(TOKEN, rows)}, {}), {"text": tokens(ENCODER, rows)}


def linear(outputs: int, **changes: Any) -> dict[str, Any]:
    return {"kind": "linear", "outputs": outputs} | changes


def weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


def test_each_kind_gives_its_shape_in_the_order_of_the_config() -> None:
    model = heads(
        price=linear(1),
        answer={"kind": "mlp", "outputs": 9},
        names={"kind": "token_linear", "outputs": 5, "input": "text"},
        low=linear(2, input="text"),
    )
    found = model(*state())
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        "price": (3, 1),
        "answer": (3, 9),
        "names": (3, 7, 5),
        "low": (3, 2),
    }
    assert list(found) == ["price", "answer", "names", "low"]


@pytest.mark.parametrize("norm", ["pre", "post", None])
def test_the_two_layers_in_plain_torch(norm: str | None) -> None:
    model = heads(answer={"kind": "mlp", "outputs": 2, "hidden": 8, "norm": norm, "eps": 1e-5})
    head: Any = model.targets["answer"]
    fused, given = state()
    x = nn.functional.linear(fused.pooled, *weights(head.fc1))
    if norm == "pre":
        x = nn.functional.layer_norm(x, (8,), eps=1e-5)
    x = nn.functional.gelu(x)
    if norm == "post":
        x = nn.functional.layer_norm(x, (8,), eps=1e-5)
    torch.testing.assert_close(model(fused, given)["answer"], nn.functional.linear(x, *weights(head.fc2)))


def test_a_head_reads_the_probabilities_of_those_before_it() -> None:
    """Whatever their order in the config, and at every token of a token head."""
    model = heads(
        sub=linear(4, after=["category", "sick"]),
        names={"kind": "token_linear", "outputs": 2, "input": "text", "after": ["category"]},
        category=linear(3),
        sick=linear(1),
    )
    fused, given = state()
    found = model(fused, given)
    category, sick = found["category"].softmax(-1), found["sick"].sigmoid()
    sub: Any = model.targets["sub"]
    torch.testing.assert_close(
        found["sub"], nn.functional.linear(torch.cat([fused.pooled, category, sick], 1), *weights(sub[1]))
    )
    names: Any = model.targets["names"]
    seen = torch.cat([fused.tokens["text"].sequence[:, 6], category], 1)
    torch.testing.assert_close(found["names"][:, 6], nn.functional.linear(seen, *weights(names[1])))


def test_what_a_head_passes_on_can_be_said() -> None:
    model = heads(age=linear(1, passes="value"), sub=linear(2, after=["age"]))
    fused, given = state()
    found = model(fused, given)
    sub: Any = model.targets["sub"]
    expected = nn.functional.linear(torch.cat([fused.pooled, found["age"]], 1), *weights(sub[1]))
    torch.testing.assert_close(found["sub"], expected)


def test_a_head_on_an_encoder_that_was_given_nothing_answers_without_it() -> None:
    model = heads(low=linear(2, input="text"))
    low: Any = model.targets["low"]
    torch.testing.assert_close(model(state()[0], {})["low"], low[1].bias.expand(3, 2))


def test_cross_stitch_in_plain_torch() -> None:
    model = heads({"kind": "cross_stitch", "layers": 2}, a=linear(1), b=linear(2))
    towers: Any = model.towers
    torch.testing.assert_close(towers.mixture.data, torch.tensor([[[0.9, 0.1], [0.1, 0.9]]] * 2))
    fused, given = state()
    a = b = fused.pooled
    for layer in range(2):
        new_a = nn.functional.gelu(nn.functional.linear(a, *weights(towers.towers["a"][layer])))
        new_b = nn.functional.gelu(nn.functional.linear(b, *weights(towers.towers["b"][layer])))
        a, b = 0.9 * new_a + 0.1 * new_b, 0.1 * new_a + 0.9 * new_b
    head: Any = model.targets["b"]
    torch.testing.assert_close(model(fused, given)["b"], nn.functional.linear(b, *weights(head[1])))


def test_three_towers_share_what_is_left() -> None:
    mixture = heads("cross_stitch", a=linear(1), b=linear(1), c=linear(1)).towers.mixture  # type: ignore[union-attr]
    torch.testing.assert_close(mixture[0].sum(-1), torch.ones(3))  # type: ignore[index]
    assert mixture[1, 2].tolist() == pytest.approx([0.05, 0.05, 0.9])  # type: ignore[index]


def test_the_tie_is_the_squared_distance_of_all_pairs() -> None:
    model = heads({"kind": "tied", "layers": 2, "strength": 0.5}, a=linear(1), b=linear(1), c=linear(1))
    towers: Any = model.towers
    expected = 0.0
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        for p, q in zip(towers.towers[one].parameters(), towers.towers[other].parameters(), strict=True):
            expected += sum((x - y) ** 2 for x, y in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True))
    assert model.tie().item() == pytest.approx(0.5 * expected, rel=1e-5)
    assert model(*state())["a"].shape == (3, 1)


def test_without_ties_the_tie_is_nothing() -> None:
    assert heads(a=linear(1)).tie().item() == 0
    assert heads("cross_stitch", a=linear(1), b=linear(1)).tie().item() == 0
    assert heads().tie().item() == 0


def test_columns_may_have_any_name() -> None:
    names = ["type", "price.usd", "price%2Eusd", "values", "类别", "half", "", "a b"]
    model = heads(**{name: linear(1) for name in names})
    assert list(model(*state())) == names
    again = heads(**{name: linear(1) for name in names})
    again.load_state_dict(model.state_dict())
    assert len(model.targets) == len(names)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": {"a": linear(1, after=["bb"]), "b": linear(1)}}, 'head "a" is after "bb", which is no head'),
        ({"targets": {"a": linear(1, after=["b"]), "b": linear(1, after=["a"])}}, "in a circle: a -> b -> a"),
        ({"targets": {"a": linear(1, after=["a"])}}, "in a circle"),
        (
            {
                "targets": {
                    "a": linear(1, after=["n"]),
                    "n": {"kind": "token_linear", "outputs": 2, "input": "text"},
                }
            },
            'cannot be after "n", which predicts at every token',
        ),
        (
            {"targets": {"a": linear(1)}, "sharing": {"kind": "tied"}},
            "needs two heads or more on the joint state, got 1",
        ),
        ({"targets": {"a": linear(0)}}, "targets.a.outputs"),
    ],
)
def test_what_cannot_be_built_says_why(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        HeadsConfig.parse(config, "heads")
    assert message in str(error.value)


def test_an_input_that_the_model_does_not_have() -> None:
    with pytest.raises(ConfigError, match='head "low" reads input "txt"; the model has text; did you mean "text"'):
        heads(low=linear(1, input="txt"))


def test_every_weight_gets_a_gradient() -> None:
    for sharing in ("hard", "cross_stitch", "tied"):
        model = heads(sharing, a=linear(2), b=linear(3, after=["a"]), c={"kind": "mlp", "outputs": 2})
        sum(one.square().sum() for one in model(*state()).values()).backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
