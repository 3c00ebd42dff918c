"""Any encoders, any fusion, any heads: ViLBERT, LXMERT, ViLT, ALBEF and the models of plain tables are configs of it.

Shapes: B rows; W width of the joint state; the rest as in `types`.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.encoders import EncoderConfig
from polymodal.errors import ShapeError
from polymodal.fusion import FusionConfig
from polymodal.fusion.missing import Missing, drop_inputs
from polymodal.layers.branch import holds
from polymodal.layers.named import ByName
from polymodal.layers.skeleton import skeleton
from polymodal.models.forms import Forms
from polymodal.models.heads import HeadsConfig
from polymodal.models.pretraining import Parts, PretrainingHeadConfig
from polymodal.types import Fused, Input, Record, Regions, Series, Text, Tokens


class MultimodalConfig(Config):
    kind: Literal["multimodal"] = "multimodal"
    encoders: dict[str, EncoderConfig] = Field(min_length=1)  # by the input's name
    fusion: FusionConfig
    heads: HeadsConfig = HeadsConfig()
    pretraining: dict[str, PretrainingHeadConfig] = Field({})  # by name; objectives run them, `forward` does not
    input_dropout: float = Field(0.0, ge=0, lt=1)  # in training, how often a row loses an input; never all of them

    @model_validator(mode="after")
    def _fits(self) -> "MultimodalConfig":
        skeleton(self.build)  # every fault between the parts shows here, before any memory is taken
        return self

    def build(self) -> "Multimodal":
        return Multimodal(self)


class MultimodalOutput(NamedTuple):
    tokens: dict[str, Tokens]  # of the encoders
    fused: Fused
    predictions: dict[str, Tensor]  # (B, ...) by the head's name; logits, or scaled values


class Multimodal(nn.Module):
    forms: Forms = Forms()  # what compression has made of it

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = ByName({name: encoder.build() for name, encoder in config.encoders.items()})
        widths = {name: encoder.width for name, encoder in config.encoders.items()}
        self.missing = Missing(widths)
        self.fusion = config.fusion.build(widths)
        self.heads = config.heads.build(self.fusion.width, self.fusion.widths, widths)
        parts = Parts(self.fusion.width, self.fusion.widths, widths, self.encoders)
        self.pretraining = ByName({name: head.build(parts) for name, head in config.pretraining.items()})

    def forward(
        self, inputs: Mapping[str, Input], present: Mapping[str, Tensor] | None = None, *, maps: bool = False
    ) -> MultimodalOutput:
        """Predictions of B rows.

        Args:
            inputs: by the encoder's name; pixels normalized. `Tokens` are taken as what the encoder says.
            present: (B,) bool by the encoder's name; None: every row has every input that is given. An input that is
                not given at all is absent in every row.
            maps: whether to keep what one can look at; it costs memory.

        Raises:
            ShapeError: no input is given, or one that the model does not know.
        """
        tokens, present = self.encode(inputs, present)
        fused = self.fuse(tokens, present, maps=maps)
        return MultimodalOutput(tokens, fused, self.heads(fused, tokens))

    def encode(
        self, inputs: Mapping[str, Input], present: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tokens], dict[str, Tensor]]:
        """What each encoder says, absent inputs left out of it, and which inputs are there after dropout."""
        unknown = inputs.keys() - self.config.encoders.keys()
        if unknown or not inputs:
            raise ShapeError(
                f"the model reads {', '.join(self.encoders)}; got {', '.join(sorted(inputs)) or 'no input'}"
            )
        rows, device = _rows(next(iter(inputs.values())))
        there = {
            name: (present or {}).get(name, torch.full((rows,), name in inputs, device=device))
            for name in self.encoders
        }
        if self.training and self.config.input_dropout:
            there = drop_inputs(there, self.config.input_dropout)
        tokens = {name: self._said(name, inputs[name], there[name]) for name in self.encoders if name in inputs}
        return tokens, there

    def _said(self, name: str, given: Input, present: Tensor) -> Tokens:
        if isinstance(given, Tokens):
            return given
        if holds(~present.any()):
            return self._said_of_nothing(name, given)
        said: Tokens = self.encoders[name](blank(given, present))
        return said

    @torch.no_grad()
    def _said_of_nothing(self, name: str, given: Input) -> Tokens:
        """Of an input that no row has: a learned token will stand for it, so two rows are enough to tell the shapes."""
        rows, device = _rows(given)
        few = _first_rows(given, 2)
        said = self.encoders[name](blank(few, torch.zeros(_rows(few)[0], dtype=torch.bool, device=device)))
        return Tokens(*(part[:1].expand(rows, *part.shape[1:]) for part in said))

    def fuse(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """The joint state; a learned token stands where a row lacks an input."""
        fused: Fused = self.fusion(self.missing(tokens, present), present, maps=maps)
        return fused


def blank(given: Input, present: Tensor) -> Input:
    """`given` with the content of absent rows removed: whatever stood there, NaN included, has no effect.

    An absent row keeps its first place unmasked, for a row without any place has no softmax.
    """
    if holds(present.all()):
        return given
    match given:
        case Text(ids, mask):
            return Text(_zeroed(ids, present), _first_only(mask, present))
        case Series(values, mask):
            return Series(_zeroed(values, present), _first_only(mask, present))
        case Regions(features, boxes, mask, classes):
            kept = None if classes is None else _zeroed(classes, present)
            return Regions(_zeroed(features, present), _zeroed(boxes, present), _first_only(mask, present), kept)
        case Record(numbers, missing, categories):
            return Record(_zeroed(numbers, present), missing | ~present[:, None], _zeroed(categories, present))
        case Tokens():
            return given  # what absent rows have here is left out behind the encoders
        case _:
            return _zeroed(given, present)


def _zeroed(values: Tensor, present: Tensor) -> Tensor:
    # masked_fill, not a product: NaN times 0 is NaN.
    return values.masked_fill(~present.view(-1, *(1,) * (values.ndim - 1)), 0)


def _first_only(mask: Tensor, present: Tensor) -> Tensor:
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask & present[:, None] | first & ~present[:, None]  # no `where`: ONNX Runtime has none of bools


def _first_rows(given: Any, count: int) -> Any:
    if isinstance(given, Tensor):
        return given[:count]
    return type(given)(*(None if part is None else part[:count] for part in given))


def _rows(given: Input) -> tuple[int, torch.device]:
    first = given if isinstance(given, Tensor) else given[0]
    return first.shape[0], first.device
