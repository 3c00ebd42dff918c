"""Series: strides and what they do to masks, the stem in plain floats, refusals."""

from math import ceil, erf
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.encoders import SeriesConfig
from polymodal.errors import ConfigError, ShapeError
from polymodal.types import Series


def config(**changes: Any) -> SeriesConfig:
    sizes = {"channels": 2, "max_length": 40, "width": 8, "layers": 1, "heads": 2, "dropout": 0.0}
    return SeriesConfig.parse(sizes | changes, "test")


def series(lengths: list[int], length: int | None = None) -> Series:
    length = length or max(lengths)
    values = torch.randn(len(lengths), 40, 2, generator=torch.Generator().manual_seed(1))[:, :length]
    return Series(values, torch.arange(length) < torch.tensor(lengths)[:, None])


@torch.no_grad()
def test_a_token_of_the_stem_in_plain_floats() -> None:
    torch.manual_seed(2)
    model: Any = config(layers=0, kernel=3, stride=2).build()
    model.post_norm = torch.nn.Identity()
    given = series([6])
    values, weight, bias = given.values[0].tolist(), model.stem.weight.tolist(), model.stem.bias.tolist()
    positions = model.positions.tolist()
    for token in range(3):
        steps = [step for step in (2 * token - 1, 2 * token, 2 * token + 1) if 0 <= step < 6]
        for d in range(8):
            x = bias[d] + sum(
                weight[d][channel][step - (2 * token - 1)] * values[step][channel]
                for step in steps
                for channel in (0, 1)
            )
            expected = 0.5 * x * (1 + erf(x / 2**0.5)) + positions[token][d]
            assert model(given).sequence[0, token, d].item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.sampled_from([(1, 1), (3, 1), (3, 2), (3, 3), (7, 4)]))
@torch.no_grad()
def test_a_series_has_a_token_for_each_stride_begun_and_gives_what_it_gives_alone(
    lengths: list[int], shape: tuple[int, int]
) -> None:
    kernel, stride = shape
    torch.manual_seed(2)
    model = config(kernel=kernel, stride=stride).build().eval()
    batch = series(lengths, length=40)
    tokens = model(batch)
    assert tokens.mask.sum(1).tolist() == [ceil(length / stride) for length in lengths]
    for row, length in enumerate(lengths):
        alone = model(Series(batch.values[row : row + 1, :length], batch.mask[row : row + 1, :length]))
        assert alone.mask.all()
        torch.testing.assert_close(alone.pooled[0], tokens.pooled[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_order_of_steps_counts() -> None:
    torch.manual_seed(2)
    model = config(kernel=1).build().eval()
    given = series([9])
    with torch.no_grad():
        model.positions.normal_()
    assert (model(given).pooled - model(given._replace(values=given.values.flip(1))).pooled).abs().max() > 1e-3


def test_its_errors() -> None:
    model = config(max_length=5).build()
    with pytest.raises(ShapeError, match="series encoder: at most 5 steps have positions, got 6; cut the series"):
        model(series([6]))
    with pytest.raises(ShapeError, match="series encoder: wanted 2 channels, got 3; set channels=3"):
        model(Series(torch.zeros(1, 4, 3), torch.ones(1, 4, dtype=torch.bool)))
    for wrong, message in (
        ({"kernel": 4}, "kernel must be odd, so that a token stands in the middle of its steps, got 4"),
        ({"kernel": 3, "stride": 4}, r"stride must be at most kernel \(3\), or steps are skipped, got 4"),
        ({"heads": 3}, r"width must be a multiple of heads \(3\), got 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(**wrong)
