"""Text that reads another input; that its layers are the known ones stands in tests/parity/test_fuse_text.py."""

import pytest
import torch

from polymodal.errors import ConfigError, ShapeError
from polymodal.fusion.fuse_text import FuseText, FuseTextConfig
from polymodal.types import Tokens
from tests.fusion.small import here

WIDTHS = {"picture": 6, "text": 4}


def built() -> FuseText:
    torch.manual_seed(1)
    model = FuseTextConfig(layers=2, heads=2).build(WIDTHS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def tokens() -> dict[str, Tokens]:
    draw = torch.Generator().manual_seed(2)
    made = {}
    for name, lengths in (("picture", [5, 5]), ("text", [3, 2])):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        sequence = torch.randn(2, max(lengths), WIDTHS[name], generator=draw)
        made[name] = Tokens(sequence, mask, sequence[:, 0])
    return made


@torch.no_grad()
def test_the_text_reads_and_the_other_input_stays_as_it_is() -> None:
    model, given = built(), tokens()
    fused = model(given, here(given))
    assert fused.tokens["picture"] is given["picture"]
    assert list(fused.tokens) == ["picture", "text"]
    assert torch.equal(fused.pooled, fused.tokens["text"].sequence[:, 0])
    moved = given | {"picture": Tokens(given["picture"].sequence + 1, *given["picture"][1:])}
    assert not torch.allclose(model(moved, here(given)).pooled, fused.pooled)


@torch.no_grad()
def test_maps_say_where_the_text_looks() -> None:
    given = tokens()
    maps = built()(given, here(given), maps=True).maps
    assert {name: tuple(looks.shape) for name, looks in maps.items()} == {
        "text->picture.0": (2, 2, 3, 5),
        "text->picture.1": (2, 2, 3, 5),
    }
    for looks in maps.values():
        torch.testing.assert_close(looks.sum(-1), torch.ones(2, 2, 3))


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r'"fuse_text" must have exactly 2 inputs, got 1 \(text\)'):
        FuseTextConfig().build({"text": 12})
    with pytest.raises(ConfigError, match=r'fusion "fuse_text": text must be one of report, image, got "text"'):
        FuseTextConfig().build({"report": 12, "image": 12})
    with pytest.raises(ConfigError, match=r'the width of "text" must be a multiple of heads \(12\), got 16'):
        FuseTextConfig().build({"text": 16, "image": 12})
    given = tokens()
    given["picture"] = Tokens(torch.zeros(2, 5, 3), *given["picture"][1:])
    with pytest.raises(ShapeError, match=r'tokens of "picture" must be as wide as its vector \(6\), got 3'):
        built()(given, here(given))
