from pathlib import Path

import pytest
import torch
from torch import nn

from polymodal import artifact
from polymodal.errors import ArtifactError
from polymodal.layers.compressed import Int8Linear, LowRankLinear
from polymodal.models.clip import Clip
from polymodal.models.forms import (
    Bfloat16Storage,
    Change,
    Form,
    Forms,
    HeadsForm,
    Int8Form,
    IntegerStorage,
    LeftOutForm,
    LinearForm,
    LowRankForm,
    RowsForm,
    apply_forms,
    put,
)
from tests import tiny

MLP = "image_encoder.blocks.0.mlp"
ATTENTION = "text_encoder.blocks.1.attention"


def changed(*changes: tuple[str, Form]) -> Clip:
    """A tiny CLIP of these forms, with random weights."""
    model = tiny.clip()
    forms = Forms(changes=tuple(Change(module=name, form=form) for name, form in changes))
    apply_forms(model, forms)
    model.forms = forms
    draw = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=draw) * 0.2)
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.weight.random_(-63, 64, generator=draw)
            module.scale.fill_(0.003)
            if module.input_scale is not None:
                module.input_scale.fill_(0.02)
    return model


def vectors(model: Clip) -> torch.Tensor:
    with torch.inference_mode():
        out = model(tiny.preprocess().image.normalize(tiny.pixels()), tiny.text())
    return torch.cat([out.image, out.text])


def saved(model: Clip, folder: Path) -> Clip:
    artifact.save(folder, model=model, tokenizer=tiny.tokenizer(), preprocess=tiny.preprocess())
    loaded = artifact.load(folder).model
    assert isinstance(loaded, Clip)
    return loaded


CHANGES: dict[str, tuple[tuple[str, Form], ...]] = {
    "linear": ((f"{MLP}.fc1", LinearForm(inputs=16, outputs=24)), (f"{MLP}.fc2", LinearForm(inputs=24, outputs=16))),
    "low rank": ((f"{MLP}.fc1", LowRankForm(rank=3)),),
    "int8": ((f"{MLP}.fc1", Int8Form()),),
    "static int8": ((f"{MLP}.fc1", Int8Form(static=True)),),
    "heads": ((ATTENTION, HeadsForm(heads=1)),),
    "rows": (("text_encoder.embedding", RowsForm(rows=600)),),
    "left out": (("image_encoder.blocks.0", LeftOutForm()),),
    "one after the other": (
        (f"{MLP}.fc1", LinearForm(inputs=16, outputs=24)),
        (f"{MLP}.fc2", LinearForm(inputs=24, outputs=16)),
        (f"{MLP}.fc1", LowRankForm(rank=2)),
        (f"{MLP}.fc1.second", Int8Form()),
    ),
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_changed_model_comes_back_as_it_was(changes: tuple[tuple[str, Form], ...], tmp_path: Path) -> None:
    model = changed(*changes)
    loaded = saved(model, tmp_path / "small")
    assert loaded.forms == model.forms
    assert not loaded.training
    assert torch.equal(vectors(loaded), vectors(model))
    again = saved(loaded, tmp_path / "again")
    assert torch.equal(vectors(again), vectors(model))


def test_an_unchanged_model_writes_no_forms(tmp_path: Path) -> None:
    saved(tiny.clip(), tmp_path / "plain")
    assert '"forms"' not in (tmp_path / "plain" / "config.json").read_text()


def test_the_structure_is_what_the_forms_say() -> None:
    model = changed(*CHANGES["one after the other"], *CHANGES["heads"], *CHANGES["left out"][:0])
    narrow = model.get_submodule(f"{MLP}.fc1")
    assert isinstance(narrow, LowRankLinear)
    assert narrow.first.weight.shape == (2, 16)
    assert isinstance(narrow.second, Int8Linear)
    assert narrow.second.weight.shape == (24, 2)
    attention = model.text_encoder.blocks[1].attention
    assert attention.heads == 1
    assert attention.qkv.weight.shape == (24, 16)  # three of one head, 8 wide
    assert attention.out.weight.shape == (16, 8)
    assert len(changed(*CHANGES["left out"]).image_encoder.blocks) == 1


@pytest.mark.parametrize(
    ("bits", "group", "off"),
    [(8, None, 1 / 254), (8, 8, 1 / 254), (4, 8, 1 / 14), (4, None, 1 / 14)],
)
def test_stored_integers_are_half_a_step_off_at_most(bits: int, group: int | None, off: float, tmp_path: Path) -> None:
    name = f"{MLP}.fc1.weight"
    model = tiny.clip()
    model.forms = model.forms.storing({name: IntegerStorage(bits=bits, group=group)})
    exact = model.state_dict()[name]
    loaded = saved(model, tmp_path / "small")
    read = loaded.state_dict()[name]
    width = group or exact.shape[1]
    greatest = exact.unflatten(1, (-1, width)).abs().amax(-1, keepdim=True).expand(-1, -1, width).flatten(1)
    assert ((read - exact).abs() <= greatest * off * 1.001).all()
    assert not torch.equal(read, exact)
    assert read.dtype == torch.float32
    again = saved(loaded, tmp_path / "again")
    assert torch.equal(again.state_dict()[name], read)  # a second time nothing is lost


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 3, 3), (2, 1), (5, 40)])
@pytest.mark.parametrize("bits", [4, 8])
def test_any_shape_is_stored(shape: tuple[int, ...], bits: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    store = IntegerStorage(bits=bits, group=16)
    packed = store.pack("w", weight)
    assert {name: tuple(part.shape) for name, part in packed.items()} == store.shapes("w", weight.shape)
    assert packed["w"].element_size() * packed["w"].numel() <= (weight.numel() + shape[0]) * bits / 8
    read = store.unpack("w", packed, weight.shape)
    assert (read - weight).abs().max() <= weight.abs().max() / (127 if bits == 8 else 7) / 2 * 1.001


def test_bfloat16_halves_the_bytes_and_keeps_eight_bits(tmp_path: Path) -> None:
    model = tiny.clip()
    big = {name for name, weight in model.state_dict().items() if weight.ndim >= 2}
    model.forms = model.forms.storing(dict.fromkeys(big, Bfloat16Storage()))
    loaded = saved(model, tmp_path / "half")
    exact = model.state_dict()
    for name, read in loaded.state_dict().items():
        assert read.dtype == torch.float32
        assert torch.equal(read, exact[name].bfloat16().float() if name in big else exact[name])
    saved(tiny.clip(), tmp_path / "whole")
    size = [(tmp_path / one / "model.safetensors").stat().st_size for one in ("half", "whole")]
    assert size[0] < 0.65 * size[1]


def test_a_form_that_does_not_fit_is_named() -> None:
    model = tiny.clip()
    with pytest.raises(ArtifactError, match=r'"image_encoder" cannot become low_rank: wanted a Linear, got Vit'):
        apply_forms(model, Forms().changed("image_encoder", LowRankForm(rank=2)))
    with pytest.raises(ArtifactError, match=r'"image_encoder.nose" cannot become int8'):
        apply_forms(model, Forms().changed("image_encoder.nose", Int8Form()))
    with pytest.raises(ArtifactError, match=r'"image_encoder.patches" cannot become left_out: wanted a ModuleList'):
        apply_forms(model, Forms().changed("image_encoder.patches", LeftOutForm()))
    with pytest.raises(ArtifactError, match="stored weights that the model does not have: nose"):
        apply_forms(model, Forms().storing({"nose": Bfloat16Storage()}))


def test_forms_that_the_weights_contradict_are_refused(tmp_path: Path) -> None:
    model = changed(*CHANGES["low rank"])
    model.forms = Forms()
    with pytest.raises(ArtifactError, match=r"weights that the config wants are missing: .*fc1\.weight"):
        artifact.save(tmp_path / "bad", model=model, tokenizer=None, preprocess=tiny.preprocess())
    assert not (tmp_path / "bad").exists()


def test_put_keeps_the_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    new = put(model, "0", LinearForm(inputs=4, outputs=2))
    assert new is model[0]
    assert not model[0].training
