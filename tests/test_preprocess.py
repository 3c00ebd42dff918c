import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.features import Features, ImageInput, TextInput
from polymodal.preprocess import AudioPreprocess, ImagePreprocess, Preprocess, TextPreprocess


def test_normalizing_is_the_formula_channel_by_channel() -> None:
    image = ImagePreprocess(size=2, mean=(0.5, 0.25, 0.1), std=(0.5, 0.2, 0.3))
    pixels = torch.randint(256, (3, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    normal = image.normalize(pixels)
    assert normal.dtype == torch.float32
    for row, channel, y, x in [(0, 0, 0, 0), (1, 1, 2, 3), (2, 2, 3, 4)]:
        expected = (pixels[row, channel, y, x].item() / 255 - image.mean[channel]) / image.std[channel]
        assert normal[row, channel, y, x].item() == pytest.approx(expected, abs=1e-6)


def test_it_comes_back_equal_from_json_values() -> None:
    written = Preprocess(
        image=ImagePreprocess(size=64, fit="squash", interpolation="bilinear", background=(1, 2, 3)),
        text=TextPreprocess(max_length=9, pad_to_max=True),
        audio=AudioPreprocess(rate=8000, seconds=2.5, pad_to_max=True, mels=64),
    )
    assert Preprocess.parse(written.to_dict(), where="preprocess.json") == written


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image": {"size": 0}}, "image.size: Input should be greater than or equal to 1, got 0"),
        ({"image": {"fit": "pad"}}, "image.fit: Input should be 'crop' or 'squash', got 'pad'"),
        ({"image": {"decoding": "quick"}}, "image.decoding: Input should be 'exact' or 'fast', got 'quick'"),
        ({"text": {"max_len": 5}}, 'unknown key "text.max_len"; did you mean "max_length"?'),
        (
            {"audio": {"rate": 44100}},
            "audio.rate: must be a multiple of 400, so that 10 ms are whole samples and 25 ms "
            "an even number, got 44100",
        ),
        ({"audio": {"seconds": 0}}, "audio.seconds: Input should be greater than 0, got 0"),
        (
            {"audio": {"features": "samples", "pad_to_max": True}},
            "audio: pad_to_max is for features log_mel; readers "
            "of samples know padding by its mask, got {'features': 'samples', 'pad_to_max': True}",
        ),
    ],
)
def test_nonsense_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Preprocess.parse(data, where="preprocess.json")
    assert str(error.value) == f"preprocess.json: {message}"


def test_times_of_a_sound_in_samples() -> None:
    audio = AudioPreprocess(rate=8000, seconds=1.5)
    assert (audio.window, audio.hop, audio.max_samples, audio.channels) == (200, 80, 12000, 80)
    assert AudioPreprocess(features="samples").channels == 1


def test_settings_written_before_there_were_sounds_are_read() -> None:
    assert Preprocess.parse({"image": {}, "text": {}}, "preprocess.json").audio == AudioPreprocess()


def test_settings_written_before_decoding_was_a_choice_mean_exact() -> None:
    assert ImagePreprocess.parse({"size": 9}, "preprocess.json").decoding == "exact"


def test_decoding_is_changed_and_nothing_else() -> None:
    settings = Preprocess(image=ImagePreprocess(size=9, fit="squash"), text=TextPreprocess(max_length=7))
    changed = settings.with_decoding("fast")
    assert changed.image == ImagePreprocess(size=9, fit="squash", decoding="fast")
    assert changed.text == settings.text
    assert changed.with_decoding(None) == changed


def test_decoding_of_every_picture_of_a_row_is_changed() -> None:
    words = TextInput(columns=("t",))
    features = Features(inputs={"i": ImageInput(column="a"), "j": ImageInput(column="b"), "t": words})
    changed = features.with_decoding("fast").inputs
    assert changed["i"] == ImageInput(column="a", preprocess=ImagePreprocess(decoding="fast"))
    assert changed["j"] == ImageInput(column="b", preprocess=ImagePreprocess(decoding="fast"))
    assert changed["t"] == words
    assert list(changed) == ["i", "j", "t"]
