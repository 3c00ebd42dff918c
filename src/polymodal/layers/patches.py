"""Pictures cut into patches, each a token."""

from torch import Tensor, nn

from polymodal.errors import ShapeError


class Patches(nn.Module):
    """Pixels (B, 3, H, W) -> patches (B, L, D), row by row.

    Pixels beyond the last whole patch are not seen (384 is no multiple of 14, and SigLIP's SO400M lives with it).
    """

    def __init__(self, patch_size: int, width: int, bias: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, int, int]:
        """The patches, and the grid's height and width.

        Raises:
            ShapeError: a side of the picture is less than a patch.
        """
        height, width = pixels.shape[-2:]
        if min(height, width) < self.patch_size:
            raise ShapeError(
                f"image encoder: pictures must have at least {self.patch_size} x {self.patch_size} pixels (one patch), "
                f"got {height} x {width}; change preprocess.image.size"
            )
        grid = self.projection(pixels)
        return grid.flatten(2).transpose(1, 2), grid.shape[2], grid.shape[3]
