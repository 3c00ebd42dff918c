"""What SpecAugment may blank and what it must leave."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.layers.spec_augment import SpecAugmentConfig
from polymodal.types import Series


def sounds(rows: int, steps: int, bands: int, lengths: list[int] | None = None) -> Series:
    """Values that are all different, and none of them a sound's mean."""
    values = (
        torch.rand(rows, steps, bands, generator=torch.Generator().manual_seed(1)) + torch.arange(rows)[:, None, None]
    )
    mask = torch.arange(steps) < torch.tensor(lengths or [steps] * rows)[:, None]
    return Series(values, mask)


def hidden(before: Series, after: Series) -> torch.Tensor:
    return before.values != after.values


def test_in_use_nothing_happens() -> None:
    given_ = sounds(2, 50, 80)
    assert SpecAugmentConfig().build().eval()(given_) is given_


@given(
    seed=st.integers(0, 999),
    bands=st.integers(1, 100),
    steps=st.integers(1, 60),
    masks=st.integers(0, 5),
    data=st.data(),
)
def test_whole_bands_and_whole_frames_are_blanked_and_never_all(
    seed: int, bands: int, steps: int, masks: int, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=3, max_size=3))
    before = sounds(3, steps, bands, lengths)
    torch.manual_seed(seed)
    after = SpecAugmentConfig(band_masks=masks, frame_masks=masks).build().train()(before)
    assert after.mask is before.mask
    for row, length in enumerate(lengths):
        gone = hidden(before, after)[row]
        assert not gone[length:].any()  # padding stays what it was
        gone = gone[:length]
        bands_gone, frames_gone = gone.all(0), gone.all(1)
        assert torch.equal(gone, bands_gone[None] | frames_gone[:, None])
        assert not gone.all()
        filled = after.values[row, :length][gone]
        assert filled.sub(before.values[row, :length].mean()).abs().le(1e-5).all()


def test_widths_follow_the_policy_and_the_number_of_bands() -> None:
    torch.manual_seed(1)
    for bands, most in ((80, 27), (40, 14)):
        before = sounds(400, 30, bands)
        after = SpecAugmentConfig(band_masks=1, frame_masks=0).build().train()(before)
        widths = hidden(before, after)[:, 0].sum(1)
        assert widths.min() == 0
        assert widths.max() == most
        assert widths.float().mean().item() == pytest.approx(most / 2, rel=0.1)


def test_frames_are_at_most_their_share_of_the_sound() -> None:
    torch.manual_seed(1)
    before = sounds(400, 100, 8, [100, 50] * 200)
    after = SpecAugmentConfig(band_masks=0, frame_masks=1, frame_share=0.2).build().train()(before)
    widths = hidden(before, after)[:, :, 0].sum(1)
    assert widths[0::2].max() == 20
    assert widths[1::2].max() == 10


def test_every_band_and_every_frame_can_be_blanked() -> None:
    torch.manual_seed(1)
    before = sounds(2000, 40, 80)
    gone = hidden(before, SpecAugmentConfig().build().train()(before))
    assert gone.all(1).any(0).all()
    assert gone.all(2).any(0).all()


def test_a_seed_repeats_and_another_does_not() -> None:
    before, augment = sounds(4, 60, 80), SpecAugmentConfig().build().train()
    torch.manual_seed(5)
    first, second = augment(before).values, augment(before).values
    torch.manual_seed(5)
    assert torch.equal(augment(before).values, first)
    assert not torch.equal(first, second)


def test_a_sound_with_nothing_in_it_and_what_stands_behind_an_end_are_borne() -> None:
    before = sounds(2, 5, 8, [4, 0])
    before.values[~before.mask] = float("nan")
    torch.manual_seed(1)
    after = SpecAugmentConfig().build().train()(before)
    assert after.values[0, :4].isfinite().all()


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"recipe: frame_share: Input should be less than or equal to 1, got 2"):
        SpecAugmentConfig.parse({"frame_share": 2}, "recipe")
