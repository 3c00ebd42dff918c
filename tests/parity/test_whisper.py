"""Whisper's encoder against transformers with random weights, through files on disk, both ways."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polymodal.encoders.whisper import Whisper, WhisperConfig, sinusoids
from polymodal.errors import ArtifactError
from polymodal.layers.log_mel import log_mel
from polymodal.layers.spec_augment import SpecAugmentConfig
from polymodal.models import published
from polymodal.preprocess import AudioPreprocess, Preprocess
from polymodal.types import Series
from tests.parity import reference
from tests.parity.reference import TOLERANCE, largest, transformers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]

SIZES = {
    "num_mel_bins": 20,
    "max_source_positions": 50,
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
KINDS = ["WhisperModel", "WhisperForConditionalGeneration", "WhisperForAudioClassification"]
PREPROCESS = AudioPreprocess(seconds=1.0, mels=20, pad_to_max=True)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def build(kind: str = "WhisperModel", **changes: Any) -> Any:
    return reference.randomized(getattr(transformers, kind)(transformers.WhisperConfig(**SIZES | changes)))


def write(folder: Path, theirs: Any) -> Path:
    extractor = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    extractor.save_pretrained(folder)
    return reference.write(theirs, folder)


def load(folder: Path) -> Whisper:
    model = published.load(folder).model
    assert isinstance(model, Whisper)
    return model


def sound(length: int = 100, mels: int = 20) -> torch.Tensor:
    return torch.randn(3, length, mels, generator=torch.Generator().manual_seed(4))


def full(values: torch.Tensor) -> Series:
    return Series(values, torch.ones(values.shape[:2], dtype=torch.bool))


def encoder(theirs: Any) -> Any:
    return theirs.model.encoder if hasattr(theirs, "model") else theirs.encoder


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_agree_and_what_is_left_out_is_named(kind: str, tmp_path: Path) -> None:
    theirs = build(kind)
    write(tmp_path, theirs)
    found = published.load(tmp_path)
    assert isinstance(found.model, Whisper)
    tokens = found.model(full(sound()))
    expected = encoder(theirs)(sound().transpose(1, 2)).last_hidden_state
    assert largest(tokens.sequence, expected) <= TOLERANCE
    assert largest(tokens.pooled, expected.mean(1)) <= TOLERANCE
    assert tokens.mask.all()
    on_disk = {name.removeprefix("model.") for name in reference.weights(tmp_path)}
    assert set(found.left_out) == {name for name in on_disk if not name.startswith("encoder.")}
    assert found.left_out
    assert found.preprocess.audio == PREPROCESS
    assert found.tokenizer is None


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "relu"},
        {"activation_function": "quick_gelu", "d_model": 24, "encoder_attention_heads": 2, "encoder_ffn_dim": 96},
        {"encoder_layers": 1, "max_source_positions": 50, "scale_embedding": True},
    ],
)
@torch.no_grad()
def test_other_sizes_agree(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = build(**changes)
    ours = load(write(tmp_path, theirs))
    expected = encoder(theirs)(sound().transpose(1, 2)).last_hidden_state
    assert largest(ours(full(sound())).sequence, expected) <= TOLERANCE


@torch.no_grad()
def test_from_a_sound_to_tokens_they_agree(tmp_path: Path) -> None:
    theirs = build()
    write(tmp_path, theirs)
    samples = np.random.default_rng(1).normal(scale=0.1, size=9000).astype(np.float32)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(tmp_path)
    features = extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
    pretrained = published.load(tmp_path)
    frames = log_mel(samples, pretrained.preprocess.audio)[None]
    assert largest(frames, features.transpose(1, 2)) <= TOLERANCE
    assert isinstance(pretrained.model, Whisper)
    assert largest(pretrained.model(full(frames)).sequence, encoder(theirs)(features).last_hidden_state) <= TOLERANCE


@torch.no_grad()
def test_an_encoder_saved_by_itself_is_read_too(tmp_path: Path) -> None:
    theirs = build()
    reference.write(encoder(theirs), tmp_path)
    found = published.load(tmp_path)
    assert found.left_out == ()
    assert isinstance(found.model, Whisper)
    expected = encoder(theirs)(sound().transpose(1, 2)).last_hidden_state
    assert largest(found.model(full(sound())).sequence, expected) <= TOLERANCE


@torch.no_grad()
def test_theirs_reads_what_ours_writes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    ours = WhisperConfig(mels=20, max_length=50, width=32, layers=2, heads=4, mlp_width=40, dropout=0.1).build().eval()
    block: Any
    for block in ours.blocks:
        torch.nn.init.normal_(block.attention.qkv.bias)  # Whisper has none for the keys: it makes no difference
    published.save(published.Pretrained(ours, None, Preprocess(audio=PREPROCESS)), tmp_path)
    for kind, prefix in (
        ("WhisperModel", "decoder."),
        ("WhisperForAudioClassification", ("projector.", "classifier.")),
    ):
        theirs, report = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
        assert all(name.startswith(prefix) for name in report["missing_keys"])
        assert not report["unexpected_keys"]
        assert not report["mismatched_keys"]
        expected = encoder(theirs.eval())(sound().transpose(1, 2)).last_hidden_state
        assert largest(ours(full(sound())).sequence, expected) <= TOLERANCE
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(tmp_path)
    samples = np.random.default_rng(2).normal(scale=0.1, size=7000).astype(np.float32)
    features = extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
    assert largest(log_mel(samples, PREPROCESS), features[0].T) <= TOLERANCE


def test_there_and_back_every_weight_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "theirs", build())
    first = published.load(tmp_path / "theirs")
    published.save(first, tmp_path / "ours")
    theirs, ours = (reference.weights(tmp_path / name) for name in ("theirs", "ours"))
    assert ours.keys() == {name for name in theirs if name.startswith("encoder.")}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = published.load(tmp_path / "ours")
    assert again.config == first.config
    assert again.preprocess == first.preprocess
    assert again.left_out == ()


def test_positions_are_theirs() -> None:
    theirs = transformers.WhisperModel(transformers.WhisperConfig(**SIZES)).encoder.embed_positions.weight
    assert largest(sinusoids(50, 32), theirs.detach()) <= 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# Faults


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        published.load(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_fft": 512}, "n_fft 512, wanted 400: other front ends are not supported"),
        ({"hop_length": 80, "dither": 0.1}, "hop_length 80, wanted 160; dither 0.1, wanted 0.0: other front ends"),
        ({"sampling_rate": 8000}, "sampling_rate 8000, wanted 16000"),
        ({"feature_size": 80}, "feature_size 80, wanted 20"),
        ({"chunk_length": 30}, "chunk_length 30, wanted 1"),
    ],
)
def test_another_front_end_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, build())
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert f"preprocessor_config.json: {message}" in refusal(tmp_path)


def test_the_front_end_is_found_in_a_processors_file_too(tmp_path: Path) -> None:
    write(tmp_path, build())
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.unlink()
    assert published.load(tmp_path).preprocess.audio == PREPROCESS  # no file: Whisper's own
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": settings | {"n_fft": 512}}))
    assert "processor_config.json: n_fft 512, wanted 400" in refusal(tmp_path)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    write(tmp_path, build())
    state = reference.weights(tmp_path)
    del state["encoder.layers.1.fc1.bias"]
    save_file(state, tmp_path / "model.safetensors")
    assert refusal(tmp_path).endswith("1 weights are missing: encoder.layers.1.fc1.bias")


def test_an_activation_that_is_not_known(tmp_path: Path) -> None:
    write(tmp_path, build(activation_function="silu"))
    assert "config.json asks for a model that is not supported: config.json: activation: " in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_to_max": False}, "pad_to_max False (wanted True); change preprocess.audio before saving"),
        ({"seconds": 2.0, "rate": 8000}, "rate 8000 (wanted 16000), seconds 2.0 (wanted 1.0)"),
        ({"mels": 40}, "mels 40 (wanted 20)"),
    ],
)
def test_sounds_that_went_another_way_are_not_saved_as_whispers(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    ours = WhisperConfig(mels=20, max_length=50, width=32, layers=1, heads=4).build()
    audio = PREPROCESS.model_copy(update=changes)
    with pytest.raises(ArtifactError) as caught:
        published.save(published.Pretrained(ours, None, Preprocess(audio=audio)), tmp_path / "out")
    assert f"layout hf: transformers' Whisper cannot have preprocess.audio with {message}" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_length_of_half_a_second_has_no_place_there(tmp_path: Path) -> None:
    ours = WhisperConfig(mels=20, max_length=25, width=32, layers=1, heads=4).build()
    audio = PREPROCESS.model_copy(update={"seconds": 0.5})
    with pytest.raises(ArtifactError, match=r"0\.5 seconds \(wanted whole ones\)"):
        published.save(published.Pretrained(ours, None, Preprocess(audio=audio)), tmp_path)


def test_spec_augment_is_a_matter_of_training(tmp_path: Path) -> None:
    config = WhisperConfig(mels=20, max_length=50, width=32, layers=1, heads=4, spec_augment=SpecAugmentConfig())
    published.save(published.Pretrained(config.build(), None, Preprocess(audio=PREPROCESS)), tmp_path)
    assert load(tmp_path).config == config.model_copy(update={"spec_augment": None, "mlp_width": 128})
