"""Masked and noisy pictures: cells are blanked, or noise is added, and the joint tokens give back the pixels.

The hidden cells are blank in the pixels, so any encoder with a token a cell will do, and what is known of the picture
from the text helps. The objective in which an encoder sees the open patches only is `mae`.
Sources: Xie et al. 2022, arXiv:2111.09886 (SimMIM: blank cells, a linear layer); He et al. 2022, arXiv:2111.06377, for
targets that are normalized cell by cell.
Shapes: B rows; H, W a picture's height and width; P pixels of a cell's side; L cells; M hidden cells.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from polymodal.config import Config
from polymodal.errors import ConfigError, ShapeError
from polymodal.features import Features, ImageInput
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaskedImageHeadConfig, PretrainingHeadConfig
from polymodal.objectives.joint_step import JointObjective, JointStep, Known
from polymodal.types import StepResult

CNN_CELL = 32  # pixels of a side of what one token of a residual network stands for


class MaskedImageConfig(Config):
    kind: Literal["masked_image"] = "masked_image"
    weight: float = Field(1.0, gt=0)
    input: str = "image"
    head: str = "masked_image"  # its name in `model.pretraining`, and of the loss in logs
    rate: float = Field(0.5, gt=0, lt=1)  # of each picture's cells

    def build(self, known: Known) -> "MaskedImage":
        check_is_image(self.kind, self.input, known.features)
        return MaskedImage(self)


class DenoisingConfig(Config):
    """Gaussian noise over all of the picture; what was there before is found again."""

    kind: Literal["denoising"] = "denoising"
    weight: float = Field(1.0, gt=0)
    input: str = "image"
    head: str = "denoising"
    std: float = Field(0.5, gt=0)  # of the noise, in units of normalized pixels

    def build(self, known: Known) -> "Denoising":
        check_is_image(self.kind, self.input, known.features)
        return Denoising(self)


def patchify(pixels: Tensor, side: int) -> Tensor:
    """(B, L, 3 P²) of pixels (B, 3, H, W): cells row by row, in each by row, column, channel; whole cells only."""
    down, across = pixels.shape[2] // side, pixels.shape[3] // side
    cells: Tensor = pixels[:, :, : down * side, : across * side].unflatten(3, (across, side)).unflatten(2, (down, side))
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def normalize_cells(cells: Tensor) -> Tensor:
    """Each cell (..., 3 P²) by its own mean and its own variance, of n - 1, + 1e-6: MAE's norm_pix_loss."""
    centered = cells - cells.mean(-1, keepdim=True)
    # Not Tensor.var, which warns where there are no cells at all.
    variance = centered.square().sum(-1, keepdim=True) / (cells.shape[-1] - 1)
    return centered / (variance + 1e-6).sqrt()


def hide_cells(pixels: Tensor, hidden: Tensor, side: int) -> Tensor:
    """Pixels (B, 3, H, W) that are 0, the mean color, where `hidden` (B, L) says so."""
    down, across = pixels.shape[2] // side, pixels.shape[3] // side
    grid = hidden.view(-1, 1, down, across).repeat_interleave(side, 2).repeat_interleave(side, 3)
    blanked = pixels.clone()
    blanked[:, :, : down * side, : across * side].masked_fill_(grid, 0.0)
    return blanked


def lowest(noise: Tensor, rate: float) -> Tensor:
    """(B, L) bool: the share `rate` of each row with the lowest noise (B, L), at least one."""
    count = max(1, round(rate * noise.shape[1]))
    return noise.argsort(1).argsort(1) < count


def cell_side(config: MultimodalConfig, name: str) -> int:
    """Pixels of a side of what one token of the encoder stands for."""
    encoder = config.encoders[name]
    side: int = getattr(getattr(encoder, "backbone", encoder), "patch_size", CNN_CELL)
    return side


def cell_states(sequence: Tensor, cells: int) -> Tensor:
    """The last `cells` of (B, leading + cells, D): what stands in front (class token, global region) is no cell.

    Raises:
        ShapeError: there are fewer tokens than cells, or more than one in front.
    """
    leading = sequence.shape[1] - cells
    if leading not in (0, 1, 2):
        raise ShapeError(
            f"masked image: the picture has {cells} cells and the encoder gives {sequence.shape[1]} tokens; set the "
            "head's cell to the encoder's patch size, and preprocess.image.size to a multiple of it"
        )
    return sequence[:, leading:]


def check_is_image(kind: str, name: str, features: Features) -> None:
    """Raises ConfigError when the input is no picture."""
    if not isinstance(features.inputs.get(name), ImageInput):
        pictures = ", ".join(one for one, given in features.inputs.items() if isinstance(given, ImageInput)) or "none"
        raise ConfigError(f'objective {kind}: "{name}" is no input of pictures; inputs of pictures: {pictures}')


class _Picture(JointObjective):
    """What masked and noisy pictures share: the head, and which cells of which rows are asked about."""

    def __init__(self, config: MaskedImageConfig | DenoisingConfig) -> None:
        super().__init__()
        self.input, self.head, self.weight = config.input, config.head, config.weight

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        return {self.head: MaskedImageHeadConfig(input=self.input, cell=cell_side(config, self.input))}

    def side(self, step: JointStep) -> int:
        config = step.model.config.pretraining[self.head]
        assert isinstance(config, MaskedImageHeadConfig)
        return config.cell

    def pixels(self, step: JointStep) -> Tensor | None:
        """(B, 3, H, W) normalized, or None where the batch lacks the input.

        Raises:
            ConfigError: cells stand in their place.
        """
        given = step.hidden.get(self.input)
        if given is not None and not isinstance(given, Tensor):
            raise ConfigError(
                f'objective {self.head}: of "{self.input}" another objective hides the cells, so that no pixels are '
                "left to hide; leave one of them out"
            )
        return given

    def found(self, step: JointStep, places: Tensor | None) -> tuple[Tensor, Tensor]:
        """(M, 3 P²) predicted and true pixels of the cells at `places` (B, L)."""
        head = step.model.pretraining[self.head]
        sequence = step.masked.fused.tokens[self.input].sequence
        if places is None:  # a batch may lack an input altogether
            nothing = head(sequence[:0, 0])
            return nothing, nothing.detach()
        pixels = step.paired.inputs[self.input]
        assert isinstance(pixels, Tensor)  # `pixels` has seen to it
        cells = patchify(pixels, self.side(step))
        places = places & step.masked.present[self.input][:, None]
        return head(cell_states(sequence, cells.shape[1])[places]).float(), cells[places]


class MaskedImage(_Picture):
    def __init__(self, config: MaskedImageConfig) -> None:
        super().__init__(config)
        self.rate = config.rate

    def hide(self, step: JointStep) -> Tensor | None:
        pixels = self.pixels(step)
        if pixels is None:
            return None
        side = self.side(step)
        cells = (pixels.shape[2] // side) * (pixels.shape[3] // side)
        hidden = lowest(step.uniform(len(pixels), cells), self.rate) & step.paired.present[self.input][:, None]
        step.hidden[self.input] = hide_cells(pixels, hidden, side)
        return hidden

    def step(self, step: JointStep) -> StepResult:
        found, cells = self.found(step, step.prepare(self))
        loss = (found - normalize_cells(cells)).square().sum() / max(1, cells.numel())
        return StepResult(loss, {self.head: loss.detach()})


class Denoising(_Picture):
    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__(config)
        self.std = config.std

    def hide(self, step: JointStep) -> Tensor | None:
        pixels = self.pixels(step)
        if pixels is None:
            return None
        step.hidden[self.input] = pixels + self.std * step.normal(pixels)
        cells = (pixels.shape[2] // self.side(step)) * (pixels.shape[3] // self.side(step))
        return step.paired.present[self.input][:, None].expand(-1, cells)

    def step(self, step: JointStep) -> StepResult:
        found, cells = self.found(step, step.prepare(self))
        loss = (found - cells).square().sum() / max(1, cells.numel())
        return StepResult(loss, {self.head: loss.detach()})
