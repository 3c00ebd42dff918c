"""Whisper's tower on sounds of any length."""

from typing import Any

import pytest
import torch

from polymodal.encoders.whisper import Whisper, WhisperConfig, sinusoids
from polymodal.errors import ConfigError, ShapeError
from polymodal.models.multimodal import blank
from polymodal.types import Series

LENGTHS = [31, 1, 30, 8, 0]


def tower(**changes: Any) -> Whisper:
    torch.manual_seed(2)
    sizes = {"mels": 12, "max_length": 20, "width": 16, "layers": 2, "heads": 2}
    return WhisperConfig.parse(sizes | changes, "tiny").build().eval()


def batch(lengths: list[int], steps: int, junk: float = 0.0) -> Series:
    values = torch.randn(len(lengths), steps, 12, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(steps) < torch.tensor(lengths)[:, None]
    return Series(values.masked_fill(~mask[:, :, None], junk), mask)


@torch.no_grad()
def test_a_sound_gives_what_it_gives_alone() -> None:
    model, together = tower(), batch(LENGTHS, 34)
    tokens = model(together)
    assert tokens.sequence.shape == (5, 17, 16)
    assert tokens.mask.sum(1).tolist() == [16, 1, 15, 4, 0]
    for row, length in enumerate(LENGTHS[:-1]):
        alone = model(Series(together.values[row : row + 1, :length], together.mask[row : row + 1, :length]))
        assert alone.mask.all()
        places = alone.sequence.shape[1]
        torch.testing.assert_close(tokens.sequence[row, :places], alone.sequence[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(tokens.pooled[row], alone.pooled[0], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_what_stands_behind_the_end_has_no_effect() -> None:
    model = tower()
    for junk in (1e3, float("nan")):
        clean, dirty = model(batch(LENGTHS, 34)), model(batch(LENGTHS, 34, junk))
        assert torch.equal(clean.pooled, dirty.pooled)
        assert torch.equal(clean.sequence[clean.mask], dirty.sequence[dirty.mask])


@torch.no_grad()
def test_an_absent_sound_and_an_empty_one_are_finite() -> None:
    model = tower()
    assert model(batch([0, 0], 6)).pooled.tolist() == [[0.0] * 16] * 2
    absent = blank(batch([6, 6], 6, float("nan")), torch.tensor([True, False]))
    assert isinstance(absent, Series)
    assert model(absent).pooled.isfinite().all()


@torch.no_grad()
def test_order_matters_to_it() -> None:
    model, given = tower(), batch([30], 30)
    turned = Series(given.values.flip(1), given.mask)
    assert (model(given).pooled - model(turned).pooled).abs().max() > 1e-3


def test_every_weight_learns_and_stands_in_one_group() -> None:
    model = tower(spec_augment={}).train()
    model(batch(LENGTHS, 34)).pooled.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    groups = model.layer_groups()
    assert len(groups) == 4
    grouped = [parameter for group in groups for parameter in group]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))


def test_spec_augment_works_in_training_only() -> None:
    plain, augmented, given = tower(), tower(spec_augment={"band_width": 40}), batch([30, 30], 30)
    augmented.load_state_dict(plain.state_dict())
    assert torch.equal(augmented(given).pooled, plain(given).pooled)
    torch.manual_seed(0)
    assert not torch.allclose(augmented.train()(given).pooled, plain.train()(given).pooled)


def test_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"wanted frames of 12 bands, got 80; set preprocess\.mels to 12 and"):
        tower()(Series(torch.zeros(1, 4, 80), torch.ones(1, 4, dtype=torch.bool)))
    with pytest.raises(
        ShapeError, match=r"at most 40 frames have positions, got 41; set preprocess\.seconds to 0\.4 or less"
    ):
        tower()(batch([41], 41))


def test_widths_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"width must be a multiple of heads \(5\), got 16"):
        tower(heads=5)
    with pytest.raises(ConfigError, match="width must be even, half sines and half cosines, got 15"):
        tower(width=15, heads=3)


def test_positions_in_plain_numbers() -> None:
    found = sinusoids(3, 4)  # wavelengths: 1 and 10000 radians
    expected = [[0, 0, 1, 1], [0.841471, 0.0001, 0.540302, 1], [0.909297, 0.0002, -0.416147, 1]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
