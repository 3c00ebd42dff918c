import pytest
import torch

from polymodal.errors import ShapeError
from polymodal.layers.patches import Patches
from polymodal.layers.positions import fit_grid


def test_the_learned_size_is_left_as_it_is() -> None:
    positions = torch.randn(1 + 9, 4)
    assert fit_grid(positions, 3, 3, leading=1) is positions


def test_class_token_stays_and_a_flat_grid_stays_flat() -> None:
    positions = torch.cat([torch.full((1, 2), 9.0), torch.ones(9, 2) * torch.tensor([1.0, -2.0])])
    fitted = fit_grid(positions, 5, 2, leading=1)
    assert fitted.shape == (11, 2)
    assert fitted[0].tolist() == [9.0, 9.0]
    torch.testing.assert_close(fitted[1:], positions[1:2].expand(10, 2))


def test_rows_and_columns_are_not_confused() -> None:
    down = torch.arange(4.0)[:, None].expand(4, 4)  # grows from row to row only
    fitted = fit_grid(down.reshape(16, 1), 8, 2, leading=0).view(8, 2)
    torch.testing.assert_close(fitted[:, 0], fitted[:, 1])
    assert (fitted[1:, 0] > fitted[:-1, 0]).all()


def test_patches_come_row_by_row() -> None:
    patches = Patches(2, 1, bias=False)
    torch.nn.init.ones_(patches.projection.weight)
    pixels = torch.zeros(1, 3, 4, 6)
    pixels[0, 0, 0, 5] = 1.0  # first row of patches, third column
    pixels[0, 0, 3, 0] = 2.0  # second row, first column
    tokens, height, width = patches(pixels)
    assert (height, width) == (2, 3)
    assert tokens[0, :, 0].tolist() == [0.0, 0.0, 1.0, 2.0, 0.0, 0.0]


def test_its_error_names_the_size_and_the_setting() -> None:
    with pytest.raises(
        ShapeError, match=r"at least 8 x 8 pixels \(one patch\), got 4 x 16; change preprocess\.image\.size"
    ):
        Patches(8, 1, bias=False)(torch.zeros(1, 3, 4, 16))
