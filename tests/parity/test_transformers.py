"""Ours against transformers with random weights, through files on disk, both ways."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.encoders.bert import Bert
from polymodal.encoders.vit import Vit
from polymodal.models import published
from polymodal.models.clip import Clip
from polymodal.types import Text
from tests.parity import reference
from tests.parity.reference import TOLERANCE, largest, transformers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]

CLIPS: dict[str, Callable[[], Any]] = {
    "clip": reference.clip,
    "clip, legacy end id": lambda: reference.clip(eos_token_id=2),
    "chinese_clip": reference.chinese_clip,
    "siglip": reference.siglip,
}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def full(ids: torch.Tensor) -> Text:
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def their_features(output: Any) -> torch.Tensor:
    features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return features


@pytest.fixture(params=CLIPS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Clip, Path]:
    """Theirs, ours loaded from their files, and the folder."""
    theirs = CLIPS[request.param]()
    folder = reference.write(theirs, tmp_path_factory.mktemp("theirs"))
    ours = published.load(folder).model
    assert isinstance(ours, Clip)
    return theirs, ours, folder


@torch.no_grad()
def test_image_vectors_agree(pair: tuple[Any, Clip, Path]) -> None:
    theirs, ours, _ = pair
    pixels = reference.pixels()
    expected = their_features(theirs.get_image_features(pixel_values=pixels))
    assert largest(ours.image_projection(ours.image_encoder(pixels).pooled), expected) <= TOLERANCE


@torch.no_grad()
def test_text_vectors_agree(pair: tuple[Any, Clip, Path]) -> None:
    theirs, ours, _ = pair
    ids = reference.ids()
    expected = their_features(theirs.get_text_features(input_ids=ids))
    assert largest(ours.text_projection(ours.text_encoder(full(ids)).pooled), expected) <= TOLERANCE


@torch.no_grad()
def test_texts_of_unequal_length_agree(pair: tuple[Any, Clip, Path]) -> None:
    theirs, ours, _ = pair
    if theirs.config.model_type == "siglip":
        pytest.skip("SigLIP reads the last place, padding or not: its texts are never of unequal length")
    ids = reference.ids()
    ids[0, 4:] = torch.tensor([98, 1, 1, 1, 1])
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    expected = their_features(theirs.get_text_features(input_ids=ids, attention_mask=mask))
    found = ours.text_projection(ours.text_encoder(Text(ids, mask.bool())).pooled)
    assert largest(found, expected) <= TOLERANCE


@torch.no_grad()
def test_logits_agree(pair: tuple[Any, Clip, Path]) -> None:
    theirs, ours, _ = pair
    ids, pixels = reference.ids(), reference.pixels()
    expected = theirs(input_ids=ids, pixel_values=pixels).logits_per_image
    out = ours(pixels, full(ids))
    logits = out.scale * out.image @ out.text.T + (0.0 if out.bias is None else out.bias)
    assert largest(logits, expected) <= TOLERANCE


@torch.no_grad()
def test_another_picture_size_interpolates_positions_alike(pair: tuple[Any, Clip, Path]) -> None:
    theirs, ours, _ = pair
    pixels = reference.pixels(40)
    expected = their_features(theirs.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True))
    assert largest(ours.image_projection(ours.image_encoder(pixels).pooled), expected) <= TOLERANCE


@torch.no_grad()
def test_what_we_write_transformers_reads_as_the_same_model(pair: tuple[Any, Clip, Path], tmp_path: Path) -> None:
    theirs, _, folder = pair
    published.save(published.load(folder), tmp_path / "ours")
    written, original = reference.weights(tmp_path / "ours"), reference.weights(folder)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids, pixels = reference.ids(), reference.pixels()
    expected = theirs(input_ids=ids, pixel_values=pixels).logits_per_image
    assert torch.equal(again.eval()(input_ids=ids, pixel_values=pixels).logits_per_image, expected)


def test_saved_and_loaded_is_bit_for_bit_the_same(pair: tuple[Any, Clip, Path], tmp_path: Path) -> None:
    _, ours, folder = pair
    published.save(published.load(folder), tmp_path / "ours")
    again = published.load(tmp_path / "ours")
    assert again.config == ours.config
    state = ours.state_dict()
    assert again.model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())


@pytest.mark.parametrize("pooler", [True, False])
@torch.no_grad()
def test_vit_agrees(pooler: bool, tmp_path: Path) -> None:
    theirs = reference.vit(pooler)
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert isinstance(pretrained.model, Vit)
    for size in (24, 40):
        pixels = reference.pixels(size)
        expected = theirs(pixel_values=pixels, interpolate_pos_encoding=True)
        tokens = pretrained.model(pixels)
        assert largest(tokens.sequence, expected.last_hidden_state) <= TOLERANCE
        pooled = expected.pooler_output if pooler else expected.last_hidden_state[:, 0]
        assert largest(tokens.pooled, pooled) <= TOLERANCE


def test_vit_goes_back_to_the_same_file(tmp_path: Path) -> None:
    theirs = reference.vit(pooler=True)
    published.save(published.load(reference.write(theirs, tmp_path / "a")), tmp_path / "b")
    written, original = reference.weights(tmp_path / "b"), reference.weights(tmp_path / "a")
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
    again, info = transformers.ViTModel.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert torch.equal(again.eval()(reference.pixels()).pooler_output, theirs(reference.pixels()).pooler_output)


def test_a_classifier_is_left_out_and_said_so(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**reference.VISION, num_labels=5)
    theirs = reference.randomized(transformers.ViTForImageClassification(config))
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert pretrained.left_out == ("classifier.bias", "classifier.weight")
    expected = theirs.vit(reference.pixels()).last_hidden_state
    assert largest(pretrained.model(reference.pixels()).sequence, expected) <= TOLERANCE


@torch.no_grad()
def test_bert_agrees(tmp_path: Path) -> None:
    theirs = reference.bert()
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert isinstance(pretrained.model, Bert)
    ids = reference.ids()
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    expected = theirs(input_ids=ids, attention_mask=mask)
    tokens = pretrained.model(Text(ids, mask.bool()))
    assert largest(tokens.sequence[mask.bool()], expected.last_hidden_state[mask.bool()]) <= TOLERANCE
    assert largest(tokens.pooled, expected.pooler_output) <= TOLERANCE


def test_bert_goes_back_to_the_same_file(tmp_path: Path) -> None:
    theirs = reference.bert()
    published.save(published.load(reference.write(theirs, tmp_path / "a")), tmp_path / "b")
    written, original = reference.weights(tmp_path / "b"), reference.weights(tmp_path / "a")
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
    again, info = transformers.BertModel.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert torch.equal(again.eval()(reference.ids()).pooler_output, theirs(reference.ids()).pooler_output)


def test_a_language_model_of_bert_loads_without_its_head(tmp_path: Path) -> None:
    text = {key: value for key, value in reference.TEXT.items() if not key.endswith("_id")}
    theirs = reference.randomized(transformers.BertForMaskedLM(transformers.BertConfig(**text)))
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert all(name.startswith("cls.") for name in pretrained.left_out)
    assert pretrained.config.pool == "cls"
    expected = theirs.bert(reference.ids()).last_hidden_state
    assert largest(pretrained.model(full(reference.ids())).sequence, expected) <= TOLERANCE


def test_shards_are_put_together(tmp_path: Path) -> None:
    theirs = reference.clip()
    reference.write(theirs, tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    whole = published.load(reference.write(theirs, tmp_path / "whole")).model.state_dict()
    sharded = published.load(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in sharded.items())


def test_settings_of_2022_that_repeat_a_tower_count(tmp_path: Path) -> None:
    theirs = reference.clip()
    settings = json.loads((reference.write(theirs, tmp_path) / "config.json").read_text())
    settings["text_config_dict"] = settings["text_config"]
    settings["text_config"] = {"hidden_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert published.load(tmp_path).config.text.width == 24


def test_the_tokenizer_we_write_is_the_one_transformers_reads(tmp_path: Path) -> None:
    from tests import tiny

    pretrained = published.Pretrained(tiny.clip(), tiny.tokenizer(), tiny.preprocess())
    published.save(pretrained, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = tiny.tokenizer()(tiny.CAPTIONS, tiny.preprocess().text)
    rows = theirs(tiny.CAPTIONS, padding=True, truncation=True, return_tensors="pt")
    assert torch.equal(rows["input_ids"], ours.ids)
    assert torch.equal(rows["attention_mask"].bool(), ours.mask)


@torch.no_grad()
def test_a_clip_trained_here_gives_its_answers_in_transformers(tmp_path: Path) -> None:
    from tests import tiny

    model, batch = tiny.clip(), tiny.image_text_batch(5)
    pixels = tiny.preprocess().image.normalize(batch.pixels)
    published.save(published.Pretrained(model, tiny.tokenizer(), tiny.preprocess()), tmp_path)
    theirs = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    out = model(pixels, batch.text)
    expected = theirs(pixel_values=pixels, input_ids=batch.text.ids, attention_mask=batch.text.mask).logits_per_image
    assert largest(out.scale * out.image @ out.text.T, expected) <= TOLERANCE


def test_pictures_are_prepared_as_the_folder_says(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pretrained = published.load(reference.write(reference.clip(), tmp_path))
    assert pretrained.preprocess.image.size == 24
    published.save(pretrained, tmp_path / "ours")
    theirs = CLIPImageProcessorPil.from_pretrained(tmp_path / "ours")
    grey = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    expected = theirs(Image.fromarray(grey), return_tensors="pt")["pixel_values"]
    ours = pretrained.preprocess.image.normalize(torch.from_numpy(grey).permute(2, 0, 1)[None])
    assert largest(ours, expected) <= TOLERANCE
