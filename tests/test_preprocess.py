import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.preprocess import ImagePreprocess, Preprocess, TextPreprocess


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
    )
    assert Preprocess.parse(written.to_dict(), where="preprocess.json") == written


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image": {"size": 0}}, "image.size: Input should be greater than or equal to 1, got 0"),
        ({"image": {"fit": "pad"}}, "image.fit: Input should be 'crop' or 'squash', got 'pad'"),
        ({"text": {"max_len": 5}}, 'unknown key "text.max_len"; did you mean "max_length"?'),
    ],
)
def test_nonsense_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Preprocess.parse(data, where="preprocess.json")
    assert str(error.value) == f"preprocess.json: {message}"
