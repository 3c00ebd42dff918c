"""Learned positions, and fitting them to another picture size."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def fit_grid(positions: Tensor, height: int, width: int, leading: int) -> Tensor:
    """Positions for a grid of `height` x `width` patches, (leading + height · width, D).

    Args:
        positions: (leading + side · side, D), learned on a square grid, row by row.
        leading: positions in front that belong to no patch (a class token) and stay as they are.

    Bicubic without corner alignment, as `interpolate_pos_encoding` of transformers does it.
    """
    side = round((len(positions) - leading) ** 0.5)
    if (height, width) == (side, side):
        return positions
    grid = positions[leading:].unflatten(0, (side, side)).permute(2, 0, 1)[None]  # (1, D, side, side)
    # In float32: bicubic weights in bfloat16 would move every patch.
    fitted = interpolate(grid.float(), size=(height, width), mode="bicubic", align_corners=False)
    return torch.cat([positions[:leading], fitted[0].flatten(1).T.to(positions.dtype)])
