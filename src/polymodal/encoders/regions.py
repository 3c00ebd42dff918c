"""Parts of pictures as tokens: what a detector found, or by default the cells of an image encoder's grid.

Sources: Lu et al. 2019, arXiv:1908.02265 (ViLBERT), code jiasenlu/vilbert_beta `BertImageEmbeddings` ("sum"); Tan &
Bansal 2019, arXiv:1908.07490 (LXMERT), code airsplay/lxmert `VisualFeatEncoder` ("mean"); Li et al. 2019,
arXiv:1908.03557 (VisualBERT), transformers `VisualBertEmbeddings` ("typed").
Shapes: B pictures; R regions; F width of their features; D width; K classes of a detector.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.encoders.efficientnet_lite import EfficientNetLiteConfig
from polymodal.encoders.image import ImageEncoderConfig
from polymodal.encoders.vit import VitConfig
from polymodal.errors import ShapeError
from polymodal.layers.branch import holds
from polymodal.layers.mlp import Activation
from polymodal.layers.pooling import masked_mean
from polymodal.layers.transformer import Transformer
from polymodal.types import Regions, Tokens

SLACK = 1e-3  # of a box beyond the picture: rounding of pixels to shares


class _Embedding(Config):
    width: int = Field(768, ge=1, le=2**16)
    style: Literal["sum", "mean", "typed"] = "sum"  # see `RegionEmbedding` and `TypedEmbedding`
    segments: int = Field(2, ge=2)  # rows of a table of which "typed" reads row 1, and others nothing
    positions: int = Field(512, ge=1)  # rows of a table of which "typed" reads row 0, and others nothing
    global_region: bool = False  # in front: the mean of the features, in a box that is the whole picture (ViLBERT)
    layers: int = Field(0, ge=0, le=1000)  # post-norm, as BERT's
    heads: int = Field(12, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    activation: Activation = "gelu"
    eps: float = 1e-12
    pool: Literal["first", "mean"] = "mean"  # first: the global region, or else the first region
    dropout: float = Field(0.1, ge=0, lt=1)

    def model_post_init(self, context: object) -> None:
        if self.layers and self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")


class RegionsConfig(_Embedding):
    """Regions of a file. ViLBERT: style sum, global_region, pool first; LXMERT: style mean."""

    kind: Literal["regions"] = "regions"
    reads: ClassVar[Literal["regions"]] = "regions"
    feature_width: int = Field(2048, ge=1, le=2**20)

    def build(self) -> "RegionsEncoder":
        return RegionsEncoder(self)


class GridRegionsConfig(_Embedding):
    """Regions of no detector: the grid cells of an image encoder, in the boxes that the cells are."""

    kind: Literal["grid_regions"] = "grid_regions"
    reads: ClassVar[Literal["image"]] = "image"
    backbone: ImageEncoderConfig

    @property
    def image_size(self) -> int:
        """Pixels of both sides."""
        return self.backbone.image_size

    @property
    def feature_width(self) -> int:
        """F: that of a cell, which is less than what EfficientNet-Lite pools when it reads several levels."""
        return self.backbone.head_width if isinstance(self.backbone, EfficientNetLiteConfig) else self.backbone.width

    def build(self) -> "GridRegionsEncoder":
        return GridRegionsEncoder(self)


class Detection(NamedTuple):
    """What a detector says of one picture: R regions, the surest first; R may be 0."""

    boxes: NDArray[np.float32]  # (R, 4): x1, y1, x2, y2 in pixels, 0 <= x1 <= x2 <= W and 0 <= y1 <= y2 <= H
    features: NDArray[np.float32]  # (R, F), finite; F is the same for all pictures: `RegionsConfig.feature_width`
    classes: NDArray[np.float32] | None  # (R, K): each row sums to 1, background among the K if there is one


class Detector(Protocol):
    """Any function or object that finds regions in pictures: what data preparation calls to fill a regions column.

    A detector without classes gives None for them in every picture; its regions can be learned from by their features
    only.
    """

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        """The regions of each picture, in order.

        Args:
            pictures: each (H, W, 3) RGB, in its own size.
        """
        ...


class RegionEmbedding(nn.Module):
    """Features (B, R, F) and boxes (B, R, 4) -> (B, R, D).

    sum: LN(W_f f + b_f + W_b box5 + b_b), where box5 ends with the area, (x2 - x1)(y2 - y1) as a share of the picture.
    mean: (LN(W_f f + b_f) + LN(W_b box4 + b_b)) / 2.
    """

    def __init__(self, feature_width: int, width: int, style: Literal["sum", "mean"], eps: float) -> None:
        super().__init__()
        self.style = style
        self.feature = nn.Linear(feature_width, width)
        self.box = nn.Linear(5 if style == "sum" else 4, width)
        if style == "sum":
            self.norm = nn.LayerNorm(width, eps=eps)
        else:
            self.feature_norm = nn.LayerNorm(width, eps=eps)
            self.box_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        out: Tensor
        if self.style == "sum":
            area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
            out = self.norm(self.feature(features) + self.box(torch.cat([boxes, area[..., None]], dim=-1)))
        else:
            out = (self.feature_norm(self.feature(features)) + self.box_norm(self.box(boxes))) / 2
        return out


class TypedEmbedding(nn.Module):
    """W_f f + b_f + segment 1 + position 0, boxes unread: words and regions are normalized together, by the fusion.

    The other rows of both tables are there because VisualBERT has them.
    """

    def __init__(self, feature_width: int, width: int, segments: int, positions: int) -> None:
        super().__init__()
        self.feature = nn.Linear(feature_width, width)
        self.segments = nn.Parameter(torch.empty(segments, width))
        self.positions = nn.Parameter(torch.empty(positions, width))
        for table in (self.segments, self.positions):
            nn.init.normal_(table, std=0.02)  # BERT's start, as that of the linear layers below

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        x = self.feature(features)
        out: Tensor = x + (self.segments[1] + self.positions[0]).to(x.dtype)
        return out


class RegionsEncoder(nn.Module):
    def __init__(self, config: RegionsConfig | GridRegionsConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding: RegionEmbedding | TypedEmbedding
        if config.style == "typed":
            self.embedding = TypedEmbedding(config.feature_width, config.width, config.segments, config.positions)
        else:
            self.embedding = RegionEmbedding(config.feature_width, config.width, config.style, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Transformer(
            config.layers,
            config.width,
            config.heads,
            config.mlp_width or 4 * config.width,
            config.activation,
            config.eps,
            norm="post",
            dropout=config.dropout,
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):  # as both sources: BERT's start
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, regions: Regions) -> Tokens:
        """Tokens (B, R, D) of regions, or (B, 1 + R, D) with the global one in front.

        Masked regions count as 0 features in an empty box, whatever stands there.

        Raises:
            ShapeError: the features have another width than the config's, or a real region's box is no part of the
                picture.
        """
        self._check(regions)
        gone, mask = ~regions.mask[:, :, None], regions.mask
        features, boxes = regions.features.masked_fill(gone, 0.0), regions.boxes.masked_fill(gone, 0.0)
        if self.config.global_region:
            features, boxes, mask = with_global_region(features, boxes, mask)
        x = self.blocks(self.dropout(self.embedding(features, boxes)), mask)
        return Tokens(x, mask, x[:, 0] if self.config.pool == "first" else masked_mean(x, mask))

    def _check(self, regions: Regions) -> None:
        got = regions.features.shape[-1]
        if got != self.config.feature_width:
            raise ShapeError(
                f"regions encoder: wanted features of width {self.config.feature_width}, got {got}; set "
                f"feature_width={got}, or give the features of the detector that the model was made for"
            )
        if regions.boxes.shape != (*regions.mask.shape, 4) or regions.features.shape[:2] != regions.mask.shape:
            raise ShapeError(
                f"regions encoder: wanted boxes (B, R, 4) and features (B, R, {got}) with R = {regions.mask.shape[1]} "
                f"as in the mask, got {tuple(regions.boxes.shape)} and {tuple(regions.features.shape)}"
            )
        check_boxes(regions)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: embedding, then each block."""
        return [list(self.embedding.parameters()), *(list(block.parameters()) for block in self.blocks)]


def check_boxes(regions: Regions) -> None:
    """
    Raises:
        ShapeError: a real region's box reaches out of the picture or has its corners swapped; it names the first.
    """
    x1, y1, x2, y2 = regions.boxes.unbind(-1)
    # Asked so that not-a-number fails too.
    fine = (regions.boxes >= -SLACK).all(-1) & (regions.boxes <= 1 + SLACK).all(-1) & (x1 <= x2) & (y1 <= y2)
    if holds((~fine & regions.mask).any()):
        wrong = (~fine & regions.mask).nonzero()
        row, region = wrong[0].tolist()
        box = ", ".join(f"{value:g}" for value in regions.boxes[row, region].tolist())
        raise ShapeError(
            f"regions encoder: boxes must be x1, y1, x2, y2 from 0 to 1 with x1 <= x2 and y1 <= y2, got ({box}) at "
            f"region {region} of row {row} ({len(wrong)} such boxes); divide x by the picture's width, y by its height"
        )


def with_global_region(features: Tensor, boxes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three with a real region in front: the mean of real regions' features, in the box of the whole picture."""
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=boxes.device, dtype=boxes.dtype).expand(boxes.shape[0], 1, 4)
    mean = masked_mean(features, mask)[:, None]
    return (
        torch.cat([mean, features], dim=1),
        torch.cat([whole, boxes], dim=1),
        torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1),
    )


class GridRegionsEncoder(nn.Module):
    def __init__(self, config: GridRegionsConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.regions = RegionsEncoder(config)

    def forward(self, given: Tensor | Regions) -> Tokens:
        """Tokens of the cells of normalized pixels (B, 3, H, W), row by row; or of cells that were found before."""
        tokens: Tokens = self.regions(given if isinstance(given, Regions) else self.cells(given))
        return tokens

    def cells(self, pixels: Tensor) -> Regions:
        """The grid as regions: what a masked-region objective predicts of."""
        return grid_regions(self.backbone, self.config.backbone, pixels)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: the backbone's groups, then those of the regions.

        What the backbone only uses to pool (its head) stands in its last group and gets no gradient.
        """
        return [*self.backbone.layer_groups(), *self.regions.layer_groups()]


def grid_regions(backbone: nn.Module, config: ImageEncoderConfig, pixels: Tensor) -> Regions:
    """The cells of the last grid of normalized pixels (B, 3, H, W), row by row; a class token is left out."""
    leading = int(isinstance(config, VitConfig) and config.class_token)
    features = backbone(pixels).sequence[:, leading:]
    rows, columns = grid_size(config, pixels.shape[2], pixels.shape[3], features.shape[1])
    boxes = cell_boxes(rows, columns, features.device).expand(features.shape[0], -1, -1)
    return Regions(features, boxes, torch.ones(features.shape[:2], dtype=torch.bool, device=features.device))


def grid_size(backbone: ImageEncoderConfig, height: int, width: int, cells: int) -> tuple[int, int]:
    """Rows and columns of the grid that a picture becomes.

    Vit leaves out what is no whole patch; the residual networks pad it, at least most of them.
    """
    side = backbone.patch_size if isinstance(backbone, VitConfig) else 32
    for rows, columns in ((height // side, width // side), (-(-height // side), -(-width // side))):
        if rows * columns == cells:
            return rows, columns
    raise ShapeError(
        f"grid of regions: {height} x {width} pixels gave {cells} cells, which are no whole cells of {side} pixels; "
        f"set preprocess.image.size to a multiple of {side}"
    )


def cell_boxes(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """(rows · columns, 4): x1, y1, x2, y2 of each cell as shares of the picture, row by row."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    corners = torch.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], dim=-1)
    return corners.flatten(0, 1)
