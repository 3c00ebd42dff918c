"""The fusion of ALBEF against the text layers of BLIP, which came out of ALBEF's: same weights, same numbers."""

from importlib import import_module
from typing import Any

import pytest
import torch

from polymodal.fusion.fuse_text import FuseTextConfig
from polymodal.models.published.keymap import Entry, affine, to_ours, to_theirs
from polymodal.types import Tokens
from tests.fusion.small import here
from tests.parity.reference import TOLERANCE, randomized, transformers

LAYERS = 3


def entries() -> list[Entry]:
    found = []
    for number in range(LAYERS):
        ours, theirs = f"blocks.{number}", f"layer.{number}"
        for our, their in (
            ("attention.out", "attention.output.dense"),
            ("norm1", "attention.output.LayerNorm"),
            ("cross.q", "crossattention.self.query"),
            ("cross.out", "crossattention.output.dense"),
            ("norm2", "crossattention.output.LayerNorm"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
            ("norm3", "output.LayerNorm"),
        ):
            found += affine(f"{ours}.{our}", f"{theirs}.{their}")
        for part in ("weight", "bias"):
            qkv = tuple(f"{theirs}.attention.self.{name}.{part}" for name in ("query", "key", "value"))
            kv = tuple(f"{theirs}.crossattention.self.{name}.{part}" for name in ("key", "value"))
            found += [Entry((f"{ours}.attention.qkv.{part}",), qkv), Entry((f"{ours}.cross.kv.{part}",), kv)]
    return found


@pytest.fixture(scope="module")
def reference() -> Any:
    config = transformers.BlipTextConfig(
        hidden_size=12,
        encoder_hidden_size=8,
        num_attention_heads=3,
        intermediate_size=20,
        num_hidden_layers=LAYERS,
        is_decoder=True,  # what gives a layer its attention to the picture
    )
    blip = import_module("transformers.models.blip.modeling_blip_text")
    return randomized(blip.BlipTextEncoder(config))


@torch.no_grad()
def test_layers_that_read_a_picture_are_those_of_blip(reference: Any) -> None:
    ours = FuseTextConfig(layers=LAYERS, heads=3, mlp_width=20).build({"text": 12, "image": 8}).eval()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(to_ours(reference.state_dict(), entries(), shapes, "BLIP"))
    draw = torch.Generator().manual_seed(3)
    text, image = torch.randn(2, 4, 12, generator=draw), torch.randn(2, 5, 8, generator=draw)
    text_mask, image_mask = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    text_mask[1, 3:], image_mask[1, 2:] = False, False
    given = {"text": Tokens(text, text_mask, text[:, 0]), "image": Tokens(image, image_mask, image[:, 0])}
    got = ours(given, here(given)).tokens["text"].sequence
    # Row by row and without padding: transformers 5.23 loses the picture's mask on its way to BlipTextSelfAttention.
    for row, (length, seen) in enumerate([(4, 5), (3, 2)]):
        one = reference(text[row : row + 1, :length], encoder_hidden_states=image[row : row + 1, :seen])
        assert (got[row, :length] - one.last_hidden_state[0]).abs().max() < TOLERANCE
    back = to_theirs(ours.state_dict(), entries())
    assert all(torch.equal(back[name], tensor) for name, tensor in reference.state_dict().items())
