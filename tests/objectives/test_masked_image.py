"""Blank and noisy pictures, and MAE, which must agree with transformers."""

import pytest
import torch
from torch import Tensor, nn

from polymodal.encoders.vit import Vit, VitConfig
from polymodal.errors import ConfigError, ShapeError
from polymodal.models.pretraining import MaeDecoder, MaeDecoderConfig
from polymodal.objectives.mae import look_at, mae_loss, shuffled
from polymodal.objectives.masked_image import cell_states, hide_cells, lowest, normalize_cells, patchify
from polymodal.types import Batch, StepResult
from tests import tiny
from tests.objectives import joint_toy


def test_cells_in_plain_loops() -> None:
    pixels = torch.arange(2 * 3 * 5 * 7, dtype=torch.float32).view(2, 3, 5, 7)
    cells = patchify(pixels, 2)
    assert cells.shape == (2, 2 * 3, 12)
    expected = [pixels[1, c, 2 + y, 4 + x].item() for y in range(2) for x in range(2) for c in range(3)]
    assert cells[1, 5].tolist() == expected  # the second row's third cell


def test_a_cell_is_normalized_by_itself() -> None:
    cell = normalize_cells(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
    assert cell.tolist()[0] == pytest.approx([x / (14 / 3 + 1e-6) ** 0.5 for x in (-2, -1, 0, 3)])
    assert torch.isfinite(normalize_cells(torch.zeros(1, 4))).all()


def test_hidden_cells_are_blank_and_others_untouched() -> None:
    pixels = joint_toy.pixels(2) + 9
    hidden = torch.tensor([[True, False, False, True], [False, True, False, False]])
    cells, before = patchify(hide_cells(pixels, hidden, 8), 8), patchify(pixels, 8)
    assert not cells[hidden].any()
    assert torch.equal(cells[~hidden], before[~hidden])


def test_a_share_of_each_row() -> None:
    noise = torch.rand(50, 16, generator=torch.Generator().manual_seed(0))
    assert lowest(noise, 0.5).sum(1).tolist() == [8] * 50
    assert lowest(noise, 0.01).sum(1).tolist() == [1] * 50
    assert (noise.masked_fill(~lowest(noise, 0.5), -1).amax(1) < noise.masked_fill(lowest(noise, 0.5), 2).amin(1)).all()


def test_masked_image_asks_the_tokens_of_hidden_cells_for_their_pixels() -> None:
    joint = joint_toy.objectives({"kind": "masked_image", "rate": 0.25})
    model = joint_toy.model(joint).eval()
    step = joint_toy.step(model)
    result = joint(step)
    hidden = step.prepare(joint.objectives[0])  # type: ignore[arg-type]
    assert hidden.sum(1).tolist() == [1] * joint_toy.ROWS
    blank = hide_cells(joint_toy.pixels(), hidden, 8)
    states = model.fuse(*model.encode({**step.batch.inputs, "image": blank})).tokens["image"].sequence[:, 1:]
    errors = (model.pretraining["masked_image"](states) - normalize_cells(patchify(joint_toy.pixels(), 8))) ** 2
    assert result.loss.item() == pytest.approx(errors[hidden].mean().item(), rel=1e-5)


def test_denoising_asks_every_cell_for_the_clean_pixels() -> None:
    joint = joint_toy.objectives({"kind": "denoising", "std": 0.25})
    model = joint_toy.model(joint).eval()
    step = joint_toy.step(model)
    result = joint(step)
    noisy = step.hidden["image"]
    assert isinstance(noisy, Tensor)
    assert (noisy - joint_toy.pixels()).std().item() == pytest.approx(0.25, rel=0.05)
    states = model.fuse(*model.encode({**step.batch.inputs, "image": noisy})).tokens["image"].sequence[:, 1:]
    errors = (model.pretraining["denoising"](states) - patchify(joint_toy.pixels(), 8)) ** 2
    assert result.loss.item() == pytest.approx(errors.mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["masked_image", "denoising", "mae"])
def test_pictures_that_are_not_there_have_no_effect(kind: str) -> None:
    joint = joint_toy.objectives({"kind": kind} | ({"width": 16, "layers": 1, "heads": 2} if kind == "mae" else {}))
    model = joint_toy.model(joint).eval()
    batch, there = joint_toy.batch(), torch.tensor([True, False, True, False, False, True])
    pixels = joint_toy.pixels()
    pixels[~there] = torch.nan

    def loss(given: Batch) -> Tensor:
        result: StepResult = joint(joint_toy.step(model, given))
        return result.loss

    some = batch._replace(inputs={**batch.inputs, "image": pixels}, present={**batch.present, "image": there})
    assert torch.isfinite(loss(some))
    assert loss(some._replace(present={**batch.present, "image": torch.zeros(6, dtype=torch.bool)})).item() == 0
    nothing = loss(batch._replace(inputs={"text": batch.inputs["text"]}, present={"text": batch.present["text"]}))
    assert nothing.item() == 0
    nothing.backward()


def test_tokens_that_are_no_cells_are_refused() -> None:
    with pytest.raises(ShapeError, match="the picture has 4 cells and the encoder gives 9 tokens; set the head's cell"):
        cell_states(torch.zeros(1, 9, 2), 4)


def test_what_cannot_be_asked_says_why() -> None:
    with pytest.raises(ConfigError, match='"text" is no input of pictures; inputs of pictures: image'):
        joint_toy.objectives({"kind": "masked_image", "input": "text"})
    joint = joint_toy.objectives({"kind": "mae", "width": 16, "layers": 1, "heads": 2})
    mean = tiny.vit_config(class_token=False, pool="mean").to_dict()
    with pytest.raises(ConfigError, match='encoder "image" must be a vit with class_token, got vit'):
        joint_toy.model(joint, encoders={"image": mean, "text": tiny.bert_config(vocab_size=300).to_dict()})
    with pytest.raises(ConfigError, match=r"width must be a multiple of heads \(3\), got 16"):
        MaeDecoderConfig.parse({"cell": 8, "width": 16, "heads": 3}, "head")


def test_a_quarter_stays_open() -> None:
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    kept, restore, hidden = shuffled(noise, 0.75)
    assert kept.shape == (3, 4)
    assert hidden.sum(1).tolist() == [12] * 3
    for row in range(3):
        assert not hidden[row, kept[row]].any()
        assert restore[row, kept[row]].tolist() == [0, 1, 2, 3]


@torch.no_grad()
@pytest.mark.parametrize("normalize", [True, False])
def test_mae_agrees_with_transformers(normalize: bool) -> None:
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    settings = transformers.ViTMAEConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=4,
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32,
        mask_ratio=0.75, norm_pix_loss=normalize, hidden_act="gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.ViTMAEForPreTraining(settings).eval()
    for weight in theirs.parameters():
        if weight.requires_grad:  # biases and gains start at 0 and 1, which would hide what goes wrong with them
            weight.add_(0.05 * torch.randn_like(weight))
    # A fresh model leaves the decoder's positions at 0; checkpoints have them, the columns in front of the rows.
    grid = modeling.build_2d_sinusoidal_position_embedding(4, 4, 8).roll(4, dims=1)
    theirs.decoder.decoder_pos_embed.copy_(torch.cat([torch.zeros(1, 8), grid])[None])
    vit, decoder = ours(theirs, settings.layer_norm_eps)
    pixels, noise = joint_toy.pixels(3), torch.rand(3, 16, generator=torch.Generator().manual_seed(1))
    expected = theirs(pixels, noise=noise)
    kept, restore, hidden = shuffled(noise, 0.75)
    predicted = decoder(look_at(vit, pixels, kept), restore, (4, 4))
    torch.testing.assert_close(predicted, expected.logits, rtol=0, atol=1e-5)
    assert mae_loss(predicted, pixels, hidden, 4, normalize).item() == pytest.approx(expected.loss.item(), abs=1e-5)


def ours(theirs: nn.Module, eps: float) -> tuple[Vit, MaeDecoder]:
    """The weights of a `ViTMAEForPreTraining` in our modules."""
    vit = VitConfig(
        image_size=16, patch_size=4, width=16, layers=2, heads=2, activation="gelu", eps=eps, patch_bias=True,
        pre_norm=False,
    ).build()  # fmt: skip
    decoder = MaeDecoder(MaeDecoderConfig(cell=4, width=8, layers=1, heads=2, eps=eps), 16)
    given = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    embeddings = "vit.embeddings."
    state = {
        "class_token": given[f"{embeddings}cls_token"].flatten(),
        "positions": given[f"{embeddings}position_embeddings"][0],
        "patches.projection.weight": given[f"{embeddings}patch_embeddings.projection.weight"],
        "patches.projection.bias": given[f"{embeddings}patch_embeddings.projection.bias"],
        "post_norm.weight": given["vit.layernorm.weight"],
        "post_norm.bias": given["vit.layernorm.bias"],
    }
    vit.load_state_dict(state | blocks(given, "vit.layers", 2))
    names = {"embed": "decoder_embed", "norm": "decoder_norm", "pixels": "decoder_pred"}
    state = {
        f"{our}.{end}": given[f"decoder.{their}.{end}"] for our, their in names.items() for end in ("weight", "bias")
    }
    state["mask_token"] = given["decoder.mask_token"].flatten()
    decoder.load_state_dict(state | blocks(given, "decoder.decoder_layers", 1))
    return vit.eval(), decoder.eval()


def blocks(given: dict[str, Tensor], prefix: str, layers: int) -> dict[str, Tensor]:
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attention.out": "attention.o_proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    found = {}
    for layer in range(layers):
        for end in ("weight", "bias"):
            there = f"{prefix}.{layer}."
            parts = [given[f"{there}attention.{part}_proj.{end}"] for part in "qkv"]
            found[f"blocks.{layer}.attention.qkv.{end}"] = torch.cat(parts)
            found |= {f"blocks.{layer}.{our}.{end}": given[f"{there}{their}.{end}"] for our, their in names.items()}
    return found
