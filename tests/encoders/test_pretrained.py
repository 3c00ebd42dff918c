"""Towers of transformers: what their models give, weights from a folder, configs that build them again, refusals."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from polymodal.encoders import TransformersConfig
from polymodal.encoders.pretrained import load_transformers, max_length, shortest
from polymodal.errors import ArtifactError, ConfigError, ShapeError
from polymodal.types import Series, Text

transformers: Any = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
POSITIONS = 12


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(vocab_size=40, max_position_embeddings=POSITIONS, **SIZES))


def roberta() -> Any:
    special = {"bos_token_id": 2, "eos_token_id": 3}
    return transformers.RobertaModel(
        transformers.RobertaConfig(vocab_size=40, max_position_embeddings=POSITIONS + 2, **special, **SIZES)
    )


def t5() -> Any:
    return transformers.T5Model(
        transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    )


def gpt2() -> Any:
    special = {"bos_token_id": 2, "eos_token_id": 3}
    return transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=40, n_positions=POSITIONS, n_embd=16, n_layer=2, n_head=2, **special)
    )


def vit() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=16, **SIZES))


def convnext() -> Any:
    return transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1]))


def whisper() -> Any:
    sizes = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    towers = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "num_mel_bins": 6, "max_source_positions": 10}
    return transformers.WhisperModel(transformers.WhisperConfig(vocab_size=40, **towers, **sizes, **special))


def wav2vec2() -> Any:
    stem = {"conv_dim": [8, 8], "conv_kernel": [6, 3], "conv_stride": [3, 2], "num_feat_extract_layers": 2}
    style = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    places = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    return transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SIZES, **stem, **style, **places))


def saved(model: Any, folder: Path) -> Any:
    """The model with weights that are no start values, and written to the folder."""
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(folder)
    return model.eval()


def text(length: int = 7) -> Text:
    ids = torch.randint(4, 40, (3, length), generator=torch.Generator().manual_seed(1))
    return Text(ids, torch.arange(length) < torch.tensor([[length], [4], [1]]))


def pixels(height: int = 32) -> Tensor:
    return torch.randn(2, 3, height, 32, generator=torch.Generator().manual_seed(2))


def frames(length: int = 20, mels: int = 6) -> Series:
    values = torch.randn(2, length, mels, generator=torch.Generator().manual_seed(3))
    return Series(values, torch.ones(2, length, dtype=torch.bool))


def samples(lengths: tuple[int, ...] = (90, 40)) -> Series:
    values = torch.randn(len(lengths), max(lengths), 1, generator=torch.Generator().manual_seed(4))
    return Series(values, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


@torch.no_grad()
def test_bert(tmp_path: Path) -> None:
    model = saved(bert(), tmp_path)
    config, tower = load_transformers(str(tmp_path), "text", pool="pooler")
    theirs = model(input_ids=text().ids, attention_mask=text().mask.long())
    tokens = tower(text())
    torch.testing.assert_close(tokens.sequence, theirs.last_hidden_state, rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens.pooled, theirs.pooler_output, rtol=0, atol=1e-6)
    assert (config.reads, config.width) == ("text", 16)
    _, mean = load_transformers(str(tmp_path), "text")
    torch.testing.assert_close(mean(text()).pooled[1], theirs.last_hidden_state[1, :4].mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [roberta, t5, gpt2])
@torch.no_grad()
def test_other_texts(make: Any, tmp_path: Path) -> None:
    model = saved(make(), tmp_path)
    _, tower = load_transformers(str(tmp_path), "text")
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    theirs = encoder(input_ids=text().ids, attention_mask=text().mask.long()).last_hidden_state
    tokens = tower(text())
    torch.testing.assert_close(tokens.sequence[text().mask], theirs[text().mask], rtol=0, atol=1e-6)
    if make is not t5:
        assert max_length(tower.model) == POSITIONS
        assert torch.isfinite(tower(text(POSITIONS)).pooled).all()


@torch.no_grad()
def test_vit(tmp_path: Path) -> None:
    model = saved(vit(), tmp_path)
    _, tower = load_transformers(str(tmp_path), "image", pool="pooler")
    tokens, theirs = tower(pixels()), model(pixel_values=pixels())
    torch.testing.assert_close(tokens.sequence, theirs.last_hidden_state, rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens.pooled, theirs.pooler_output, rtol=0, atol=1e-6)
    _, first = load_transformers(str(tmp_path), "image", pool="first")
    torch.testing.assert_close(first(pixels()).pooled, theirs.last_hidden_state[:, 0], rtol=0, atol=1e-6)
    assert tower(pixels(height=48)).sequence.shape == (2, 1 + 6, 16)  # another size interpolates the positions


@torch.no_grad()
def test_a_grid_becomes_tokens_row_by_row(tmp_path: Path) -> None:
    model = saved(convnext(), tmp_path)
    _, tower = load_transformers(str(tmp_path), "image")
    theirs = model(pixel_values=pixels(64)).last_hidden_state  # (2, 16, 2, 1)
    torch.testing.assert_close(tower(pixels(64)).sequence[:, 1], theirs[:, :, 1, 0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_whispers_encoder(tmp_path: Path) -> None:
    model = saved(whisper(), tmp_path)
    config, tower = load_transformers(str(tmp_path), "audio")
    theirs = model.get_encoder()(frames().values.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(tower(frames()).sequence, theirs, rtol=0, atol=1e-6)
    assert not [name for name in tower.state_dict() if "decoder" in name]
    short = frames()._replace(mask=torch.arange(20) < torch.tensor([[20], [5]]))
    assert tower(short).mask.sum(1).tolist() == [10, 3]
    torch.testing.assert_close(tower(short).pooled[1], theirs[1, :3].mean(0), rtol=0, atol=1e-6)
    assert config.width == 16


@torch.no_grad()
def test_wav2vec2(tmp_path: Path) -> None:
    model = saved(wav2vec2(), tmp_path)
    _, tower = load_transformers(str(tmp_path), "audio")
    sound = samples()
    values = sound.values[:, :, 0].masked_fill(~sound.mask, 0)
    theirs = model(values, attention_mask=sound.mask.long()).last_hidden_state
    tokens = tower(sound)
    torch.testing.assert_close(tokens.sequence[tokens.mask], theirs[tokens.mask], rtol=0, atol=1e-6)
    assert tokens.mask.sum(1).tolist() == [(90 - 6) // 3 // 2, (40 - 6) // 3 // 2]
    assert tower.train()(samples((13, 12))).pooled.isfinite().all()  # their masking in training would fail here


@torch.no_grad()
def test_a_sound_too_short_for_a_token_is_read_with_zeros_behind(tmp_path: Path) -> None:
    saved(wav2vec2(), tmp_path)
    _, tower = load_transformers(str(tmp_path), "audio")
    least = shortest([6, 3], [3, 2])
    assert least == 12
    tokens = tower(samples((5, 1)))
    assert tokens.mask.tolist() == [[True], [True]]
    longer = samples((5, 1))
    longer = Series(torch.cat([longer.values, torch.full((2, 7, 1), 9.0)], 1), torch.zeros(2, 12, dtype=torch.bool))
    longer.mask[:, :5] = samples((5, 1)).mask
    torch.testing.assert_close(tower(longer).pooled, tokens.pooled)


@pytest.mark.parametrize(("make", "reads", "given"), [(bert, "text", text), (vit, "image", pixels)])
@torch.no_grad()
def test_the_config_alone_builds_it_again(make: Any, reads: Any, given: Any, tmp_path: Path) -> None:
    saved(make(), tmp_path / "source")
    config, tower = load_transformers(str(tmp_path / "source"), reads)
    save_file(tower.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "source").rename(tmp_path / "gone")
    config = TransformersConfig.parse(json.loads((tmp_path / "config.json").read_text()), "config.json")
    with torch.device("meta"):
        again = config.build()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    assert torch.equal(again.eval()(given()).pooled, tower(given()).pooled)


def test_input_that_does_not_fit(tmp_path: Path) -> None:
    for name, model in {"bert": bert(), "whisper": whisper(), "wav2vec2": wav2vec2()}.items():
        saved(model, tmp_path / name)
    _, tower = load_transformers(str(tmp_path / "bert"), "text")
    with pytest.raises(ShapeError, match=r"at most 12 tokens have positions, got 13; set preprocess\.text\.max_length"):
        tower(text(13))
    _, tower = load_transformers(str(tmp_path / "whisper"), "audio")
    with pytest.raises(ShapeError, match=r"wanted 20 frames of 6 mels, got 19 of 6; set preprocess\.audio\.pad_to_max"):
        tower(frames(19))
    _, tower = load_transformers(str(tmp_path / "wav2vec2"), "audio")
    with pytest.raises(ShapeError, match="wanted the samples of a sound, in 1 channel, got 6 channels"):
        tower(frames())


def test_a_model_that_reads_something_else_is_refused(tmp_path: Path) -> None:
    saved(bert(), tmp_path)
    with pytest.raises(ConfigError, match='a "bert" reads input_ids, which is no image'):
        load_transformers(str(tmp_path), "image")


def test_pooling_that_a_model_does_not_have_is_refused(tmp_path: Path) -> None:
    saved(gpt2(), tmp_path)
    _, tower = load_transformers(str(tmp_path), "text", pool="pooler")
    with pytest.raises(ConfigError, match='a "gpt2" has no pooling of its own; set pool=mean'):
        tower(text())


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone: wanted a folder or a name on the hub with config\.json: "):
        load_transformers(str(tmp_path / "gone"), "text")
    saved(bert(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if name.endswith("query.weight"))
    save_file({name: weight for name, weight in weights.items() if name != lost}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ArtifactError, match=r"1 weights that the model wants are missing, first: .*query\.weight"):
        load_transformers(str(tmp_path), "text")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"wanted model\.safetensors of this model: "):
        load_transformers(str(tmp_path), "text")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = saved(bert(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"wanted model\.safetensors of this model: "):
        load_transformers(str(tmp_path), "text")


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    saved(bert(), tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    ran = tmp_path / "ran"
    (tmp_path / "modeling_own.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own: pass\n")
    own = {"AutoConfig": "modeling_own.Own", "AutoModel": "modeling_own.Own"}
    (tmp_path / "config.json").write_text(json.dumps(plain | {"auto_map": own}))
    config, _ = load_transformers(str(tmp_path), "text")
    assert "auto_map" not in config.settings
    (tmp_path / "config.json").write_text(json.dumps(plain | {"auto_map": own, "model_type": "own"}))
    with pytest.raises(ConfigError, match=r'transformers 5\.\S+ has no model type "own"'):
        load_transformers(str(tmp_path), "text")
    assert not ran.exists()


def settings(**changes: Any) -> dict[str, Any]:
    plain = {"model_type": "bert", "vocab_size": 40, **SIZES}
    return {"reads": "text", "width": 16, "settings": plain} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "width must be 16, that of the settings, got 8"),
        ({"settings": {"vocab_size": 40}}, 'has no model type "None"'),
        ({"settings": {"model_type": "bert", "hidden_size": "wide"}}, 'the settings are none of a "bert": '),
        ({"settings": {"model_type": "clip"}}, 'wanted a single tower, got a "clip", which has 2; polymodal'),
        ({"settings": {"model_type": "bert", **SIZES, "num_attention_heads": 3}}, 'no "bert" has these settings: '),
        (
            {"reads": "audio", "width": 8, "settings": {"model_type": "audio-spectrogram-transformer", "hidden_size": 8,
             "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}},
            r'of audio Whisper and readers of samples \(wav2vec 2\.0\) work, got "audio-spectrogram-transformer"',
        ),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformersConfig.parse(settings(**changes), "test").build()


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'transformers is not installed; `pip install "polymodal\[hf\]"`'):
        load_transformers("anything", "text")
    with pytest.raises(ConfigError, match="transformers is not installed"):
        TransformersConfig.parse(settings(), "test").build()
