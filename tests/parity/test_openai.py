"""OpenAI's layout: ours against a recomputation from the flat names alone; to Hugging Face's and back, exactly.

The oracle below reads the tensors by their names in the file and uses torch's functions only; it shares no module with
the package. It follows arXiv:2103.00020, section 2.4, and openai/CLIP clip/model.py.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from polymodal.encoders import ClipResnetConfig, TextTransformerConfig
from polymodal.errors import ArtifactError
from polymodal.models import published
from polymodal.models.clip import Clip, ClipConfig
from polymodal.types import Text
from tests import tiny
from tests.parity import reference
from tests.parity.reference import TOLERANCE, largest

State = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]]) -> State:
    draw = torch.Generator().manual_seed(9)
    return {name: torch.randn(shape, generator=draw) * 0.2 for name, shape in sorted(shapes.items())}


def batch_norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def block_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.ln_1.weight": (width,),
        f"{name}.ln_1.bias": (width,),
        f"{name}.attn.in_proj_weight": (3 * width, width),
        f"{name}.attn.in_proj_bias": (3 * width,),
        f"{name}.attn.out_proj.weight": (width, width),
        f"{name}.attn.out_proj.bias": (width,),
        f"{name}.ln_2.weight": (width,),
        f"{name}.ln_2.bias": (width,),
        f"{name}.mlp.c_fc.weight": (4 * width, width),
        f"{name}.mlp.c_fc.bias": (4 * width,),
        f"{name}.mlp.c_proj.weight": (width, 4 * width),
        f"{name}.mlp.c_proj.bias": (width,),
    }


def text_shapes(width: int, layers: int, shared: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (60, width),
        "positional_embedding": (9, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, shared),
        "logit_scale": (),
    }
    for layer in range(layers):
        shapes |= block_shapes(f"transformer.resblocks.{layer}", width)
    return shapes


def resnet_shapes(layers: tuple[int, ...], stem: int, side: int, shared: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (stem // 2, 3, 3, 3),
        "visual.conv2.weight": (stem // 2, stem // 2, 3, 3),
        "visual.conv3.weight": (stem, stem // 2, 3, 3),
    }
    for number, channels in ((1, stem // 2), (2, stem // 2), (3, stem)):
        shapes |= batch_norm_shapes(f"visual.bn{number}", channels)
    channels = stem
    for stage, blocks in enumerate(layers, start=1):
        inner = stem * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"visual.layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (inner, channels, 1, 1)
            shapes[f"{name}.conv2.weight"] = (inner, inner, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * inner, inner, 1, 1)
            for number, width in ((1, inner), (2, inner), (3, 4 * inner)):
                shapes |= batch_norm_shapes(f"{name}.bn{number}", width)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inner, channels, 1, 1)
                shapes |= batch_norm_shapes(f"{name}.downsample.1", 4 * inner)
            channels = 4 * inner
    shapes["visual.attnpool.positional_embedding"] = (side * side + 1, channels)
    for part in ("q_proj", "k_proj", "v_proj"):
        shapes |= {f"visual.attnpool.{part}.weight": (channels, channels), f"visual.attnpool.{part}.bias": (channels,)}
    return shapes | {"visual.attnpool.c_proj.weight": (shared, channels), "visual.attnpool.c_proj.bias": (shared,)}


def resnet_state() -> State:
    """Two blocks in the first stage, pictures of 64 pixels, 16 shared dimensions."""
    state = drawn(resnet_shapes((2, 1, 1, 1), 4, 2, 16) | text_shapes(64, 2, 16))
    for name, tensor in list(state.items()):
        if name.endswith("running_var"):
            state[name] = tensor.abs() + 0.5
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(3)
    return state


def vit_state() -> State:
    width, shared = 64, 16
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (10, width),
        "visual.conv1.weight": (width, 3, 8, 8),
        "visual.proj": (width, shared),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{norm}.weight": (width,), f"visual.{norm}.bias": (width,)}
    for layer in range(2):
        shapes |= block_shapes(f"visual.transformer.resblocks.{layer}", width)
    return drawn(shapes | text_shapes(64, 2, shared))


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return functional.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])


def oracle_resnet(state: State, pixels: Tensor, layers: tuple[int, ...], heads: int) -> Tensor:
    x = pixels
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = functional.conv2d(x, state[f"visual.conv{number}.weight"], stride=stride, padding=1)
        x = norm(state, f"visual.bn{number}", x).relu()
    x = functional.avg_pool2d(x, 2)
    for stage, blocks in enumerate(layers, start=1):
        for block in range(blocks):
            name, halve = f"visual.layer{stage}.{block}", stage > 1 and block == 0
            out = norm(state, f"{name}.bn1", functional.conv2d(x, state[f"{name}.conv1.weight"])).relu()
            out = norm(state, f"{name}.bn2", functional.conv2d(out, state[f"{name}.conv2.weight"], padding=1)).relu()
            out = functional.avg_pool2d(out, 2) if halve else out
            out = norm(state, f"{name}.bn3", functional.conv2d(out, state[f"{name}.conv3.weight"]))
            if f"{name}.downsample.0.weight" in state:
                x = functional.avg_pool2d(x, 2) if halve else x
                x = norm(state, f"{name}.downsample.1", functional.conv2d(x, state[f"{name}.downsample.0.weight"]))
            x = (out + x).relu()
    tokens = x.flatten(2).permute(2, 0, 1)  # (places, rows, channels)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + state["visual.attnpool.positional_embedding"][:, None]
    pool = {
        name: state[f"visual.attnpool.{name}"] for name in (f"{p}_proj.{k}" for p in "qkvc" for k in ("weight", "bias"))
    }
    pooled, _ = functional.multi_head_attention_forward(
        query=tokens[:1],
        key=tokens,
        value=tokens,
        embed_dim_to_check=tokens.shape[-1],
        num_heads=heads,
        q_proj_weight=pool["q_proj.weight"],
        k_proj_weight=pool["k_proj.weight"],
        v_proj_weight=pool["v_proj.weight"],
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool["q_proj.bias"], pool["k_proj.bias"], pool["v_proj.bias"]]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool["c_proj.weight"],
        out_proj_bias=pool["c_proj.bias"],
        use_separate_proj_weight=True,
        training=False,
        need_weights=False,
    )
    return pooled[0]


def oracle_text(state: State, ids: Tensor) -> Tensor:
    """OpenAI's text tower by torch's own attention, for width 64 (one head)."""
    x = (state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]).transpose(0, 1)
    length, width = ids.shape[1], x.shape[-1]
    causal = torch.full((length, length), float("-inf")).triu(1)
    for layer in range(2):
        name = f"transformer.resblocks.{layer}"
        normed = functional.layer_norm(x, (width,), state[f"{name}.ln_1.weight"], state[f"{name}.ln_1.bias"])
        attended, _ = functional.multi_head_attention_forward(
            normed,
            normed,
            normed,
            width,
            1,
            state[f"{name}.attn.in_proj_weight"],
            state[f"{name}.attn.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            state[f"{name}.attn.out_proj.weight"],
            state[f"{name}.attn.out_proj.bias"],
            attn_mask=causal,
            training=False,
            need_weights=False,
        )
        x = x + attended
        normed = functional.layer_norm(x, (width,), state[f"{name}.ln_2.weight"], state[f"{name}.ln_2.bias"])
        wide = functional.linear(normed, state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"])
        bent = wide * torch.sigmoid(1.702 * wide)
        x = x + functional.linear(bent, state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])
    x = functional.layer_norm(x, (width,), state["ln_final.weight"], state["ln_final.bias"]).transpose(0, 1)
    return x[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]


def written(state: State, path: Path) -> Path:
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


@torch.no_grad()
def test_the_residual_network_agrees_with_the_recomputation(tmp_path: Path) -> None:
    state = resnet_state()
    model = published.load(written(state, tmp_path / "rn.safetensors")).model
    assert isinstance(model, Clip)
    assert isinstance(model.config.image, ClipResnetConfig)
    assert (model.config.image.layers, model.config.image.image_size) == ((2, 1, 1, 1), 64)
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = oracle_resnet(state, pixels, (2, 1, 1, 1), heads=2)
    found = model.image_encoder(pixels).pooled
    assert largest(found, expected) <= TOLERANCE * max(1.0, expected.abs().max().item())


@torch.no_grad()
def test_the_text_tower_agrees_with_the_recomputation(tmp_path: Path) -> None:
    state = vit_state()
    model = published.load(written(state, tmp_path / "vit.pt")).model
    assert isinstance(model, Clip)
    ids = torch.tensor([[57, 4, 9, 11, 58], [57, 30, 58, 0, 0]])
    found = model.text_projection(model.text_encoder(Text(ids, ids > 0)).pooled)
    assert largest(found, oracle_text(state, ids)) <= TOLERANCE


@pytest.mark.parametrize("make", [vit_state, resnet_state])
def test_read_and_written_is_the_same_file(make: object, tmp_path: Path) -> None:
    assert callable(make)
    state: State = make()
    published.save(published.load(written(state, tmp_path / "a.safetensors")), tmp_path / "b", layout="openai")
    back = reference.weights(tmp_path / "b")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@torch.no_grad()
def test_openai_to_hugging_face_and_back_is_exact(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    state = vit_state()
    first = published.load(written(state, tmp_path / "a.safetensors"))
    published.save(first, tmp_path / "hf")
    published.save(published.load(tmp_path / "hf"), tmp_path / "back", layout="openai")
    back = reference.weights(tmp_path / "back")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval()
    ids, pixels = torch.tensor([[57, 4, 9, 58], [57, 30, 2, 58]]), reference.pixels()
    assert isinstance(first.model, Clip)
    out = first.model(pixels, Text(ids, ids > 0))
    expected = theirs(input_ids=ids, pixel_values=pixels).logits_per_image
    assert largest(out.scale * out.image @ out.text.T, expected) <= TOLERANCE


def test_half_precision_files_give_a_float32_model(tmp_path: Path) -> None:
    state = vit_state()
    halves = {name: tensor.half() for name, tensor in state.items()}
    halves |= {"input_resolution": torch.tensor(24), "context_length": torch.tensor(9), "vocab_size": torch.tensor(60)}
    model = published.load(written(halves, tmp_path / "half.pt")).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_parameter("text_projection.weight"), halves["text_projection"].float().T)


def test_a_config_without_a_place_there_is_refused(tmp_path: Path) -> None:
    def refused(config: ClipConfig) -> str:
        with pytest.raises(ArtifactError) as caught:
            published.save(published.Pretrained(config.build(), None, tiny.preprocess()), tmp_path, layout="openai")
        return str(caught.value)

    assert refused(tiny.siglip_config()) == "layout openai: the text tower is not CLIP's"
    wide = {"image": tiny.vit_config(width=64, heads=1), "text": tiny.text_config(width=64, heads=2)}
    assert refused(tiny.clip_config(**wide)) == "layout openai: text heads must be 64 wide, got 2 for width 64"
    assert "projection is not linear" in refused(tiny.clip_config(image_projection="mlp"))
    ends_early = {"image": tiny.vit_config(heads=1), "text": tiny.text_config(heads=1, pool="eos", eos_token_id=7)}
    assert refused(tiny.clip_config(**ends_early)) == (
        "layout openai: texts are read at the largest id, 511, but here they end with 7"
    )
    exact = TextTransformerConfig.parse(tiny.text_config().to_dict() | {"activation": "gelu", "heads": 1}, "")
    assert "quick_gelu" in refused(tiny.clip_config(image=tiny.vit_config(heads=1), text=exact))


def test_other_weights_are_refused_by_their_names(tmp_path: Path) -> None:
    state = vit_state()
    state["visual.extra"] = torch.zeros(1)
    with pytest.raises(ArtifactError, match=r"1 weights have no place in this config: visual\.extra"):
        published.load(written(state, tmp_path / "extra.safetensors"))
    del state["visual.extra"], state["visual.ln_post.bias"]
    with pytest.raises(ArtifactError, match=r"1 weights are missing: visual\.ln_post\.bias"):
        published.load(written(state, tmp_path / "less.safetensors"))
    state = vit_state()
    state["visual.ln_post.bias"] = torch.zeros(5)
    with pytest.raises(ArtifactError, match=r"visual\.ln_post\.bias must give \(64,\), got \(5,\)"):
        published.load(written(state, tmp_path / "shape.safetensors"))
    del state["transformer.resblocks.0.mlp.c_fc.weight"]
    with pytest.raises(ArtifactError, match="do not tell the config, for want of 'transformer"):
        published.load(written(state, tmp_path / "shape.safetensors"))
