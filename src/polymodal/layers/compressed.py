"""Layers that compression puts in the place of linear ones, and weights as integers of few bits.

Sources: affine quantization as Jacob et al. 2018, arXiv:1712.05877, section 2.1: x = s (q - z); weights per output
channel and symmetric, z = 0, as Krishnamoorthi 2018, arXiv:1806.08342, section 2.4.
Shapes: R rows of a weight (all dimensions but the first are flattened to F); B tokens; I inputs; O outputs.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

# Weights of 7 bits. A CPU without VNNI adds two products of an activation (0 to 255) and a weight in 16 bits:
# 2 * 255 * 63 is below 32767, 2 * 255 * 127 is not and would saturate without a word.
WEIGHT_LIMIT = 63
INPUT_LIMIT = 255

# ---------------------------------------------------------------------------------------------------------------------
# Weights as integers


def integers(weight: Tensor, bits: int, group: int | None = None) -> tuple[Tensor, Tensor]:
    """Integers of `packed_shape` and scales of `scale_shape`; the largest weight of each group is kept exactly.

    Args:
        weight: of any shape; rows are its first dimension.
        bits: 8, as int8; or 4, two in a byte (uint8), the first in the lower half.
        group: so many weights of a row share a scale; None: all of a row.
    """
    limit = 2 ** (bits - 1) - 1
    grouped = _grouped(weight.detach().float(), group)  # (R, G, group)
    scale = (grouped.abs().amax(-1) / limit).clamp(min=torch.finfo(torch.float32).tiny)
    values = (grouped / scale[..., None]).round().clamp(-limit, limit).to(torch.int8)
    values = values.flatten(1)[:, : weight[0].numel()]
    if bits == 4:
        halves: Tensor = pad(values, (0, values.shape[1] % 2)).add(8).to(torch.uint8).unflatten(1, (-1, 2))
        return halves[..., 0] | (halves[..., 1] << 4), scale
    return values.reshape(weight.shape), scale


def from_integers(values: Tensor, scale: Tensor, shape: torch.Size, bits: int, group: int | None = None) -> Tensor:
    """The weight (of `shape`, float32) that `integers` has written."""
    rows, width = shape[0], math.prod(shape[1:])
    if bits == 4:
        halves = torch.stack([values & 15, values >> 4], -1).flatten(1)
        values = halves.to(torch.int8)[:, :width] - 8
    grouped = _grouped(values.reshape(rows, width).float(), group)
    weight: Tensor = (grouped * scale[..., None]).flatten(1)[:, :width].reshape(shape)
    return weight


def packed_shape(shape: torch.Size, bits: int) -> tuple[int, ...]:
    return tuple(shape) if bits == 8 else (shape[0], (math.prod(shape[1:]) + 1) // 2)


def scale_shape(shape: torch.Size, group: int | None) -> tuple[int, int]:
    width = math.prod(shape[1:])
    return (shape[0], -(-width // (group or width)))


def _grouped(weight: Tensor, group: int | None) -> Tensor:
    """(R, G, group) of a weight, filled up with zeros where the last group is short."""
    flat = weight.reshape(len(weight), -1)
    group = group or flat.shape[1]
    filled: Tensor = pad(flat, (0, -flat.shape[1] % group))
    return filled.view(len(weight), -1, group)


# ---------------------------------------------------------------------------------------------------------------------
# Layers


class LowRankLinear(nn.Module):
    """y = second(first(x)): I -> rank -> O."""

    def __init__(
        self, inputs: int, outputs: int, rank: int, bias: bool = True, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.first = nn.Linear(inputs, rank, bias=False, device=device)
        self.second = nn.Linear(rank, outputs, bias=bias, device=device)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


class Int8Linear(nn.Module):
    """y = s_x s_w (q_x - z) q_w + b: activations 0 to 255, by token or with one range known beforehand; weights -63 to
    63, by output channel.

    It is made by `of`, or its weights come from a file.
    """

    weight: Tensor  # (O, I) int8
    scale: Tensor  # (O,) float32, s_w
    input_scale: Tensor | None  # () float32, s_x; None: of each token by its own least and greatest value
    input_zero: Tensor | None  # () int32, z

    def __init__(
        self, inputs: int, outputs: int, bias: bool = True, static: bool = False, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.ones(outputs, device=device))
        self.register_buffer("input_scale", torch.ones((), device=device) if static else None)
        self.register_buffer("input_zero", torch.zeros((), dtype=torch.int32, device=device) if static else None)
        self.bias = nn.Parameter(torch.zeros(outputs, device=device), requires_grad=False) if bias else None
        self._packed: tuple[Tensor, Tensor, Tensor] | None = None  # the weight it was made of, packed, its column sums

    @classmethod
    @torch.no_grad()
    def of(cls, layer: nn.Linear, low: float | None = None, high: float | None = None) -> "Int8Linear":
        """The layer in integers.

        Args:
            low, high: the range of its input, if it is to be fixed; 0 is always within.
        """
        new = cls(layer.in_features, layer.out_features, layer.bias is not None, static=low is not None)
        weight = layer.weight.float()
        new.scale = (weight.abs().amax(1) / WEIGHT_LIMIT).clamp(min=torch.finfo(torch.float32).tiny)
        new.weight = (weight / new.scale[:, None]).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)
        if low is not None and high is not None:
            scale, zero = _affine(torch.tensor(low), torch.tensor(high))
            new.input_scale, new.input_zero = scale, zero.to(torch.int32)
        if layer.bias is not None and new.bias is not None:
            new.bias.copy_(layer.bias)
        return new.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) of (..., I), in the input's type."""
        tokens = x.reshape(-1, self.in_features).float()
        out = self._in_floats(tokens) if _in_floats_only(x) else self._in_integers(tokens)
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def dequantized(self) -> Tensor:
        """(O, I) float32, the weight that the integers stand for."""
        return self.weight * self.scale[:, None]

    def _input_range(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """s_x and z, () each or (B, 1)."""
        if self.input_scale is not None and self.input_zero is not None:
            return self.input_scale, self.input_zero.float()
        return _affine(*tokens.aminmax(dim=1, keepdim=True))

    def _in_floats(self, tokens: Tensor) -> Tensor:
        """The same numbers in plain operations, which every exporter and device knows."""
        scale, zero = self._input_range(tokens)
        quantized = ((tokens / scale).round() + zero).clamp(0, INPUT_LIMIT)
        bias = None if self.bias is None else self.bias.float()
        return linear(scale * (quantized - zero), self.dequantized(), bias)

    def _in_integers(self, tokens: Tensor) -> Tensor:
        scale, zero = self._input_range(tokens)
        quantized = ((tokens / scale).round_() + zero).clamp_(0, INPUT_LIMIT).to(torch.uint8)
        packed, sums = self._pack()
        # (q_x - z) q_w = q_x q_w - z (sum of the channel's q_w): the kernel knows one z for all tokens only.
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            quantized, 1.0, 0, packed, self.scale, torch.zeros_like(self.scale, dtype=torch.int32), None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        out.addr_(zero.expand(len(tokens), 1)[:, 0], sums, alpha=-1)
        return out.mul_(scale) if self.bias is None else torch.addcmul(self.bias.float(), out, scale)

    def _pack(self) -> tuple[Tensor, Tensor]:
        packed = self._packed
        if packed is None or packed[0] is not self.weight:
            made: Tensor = torch.ops.onednn.qlinear_prepack(self.weight.contiguous(), None)
            self._packed = packed = (self.weight, made, self.weight.sum(1) * self.scale)
        return packed[1], packed[2]

    def _apply(self, fn: Any, recurse: bool = True) -> "Int8Linear":
        """As of every module; but scales stay float32 when the model becomes bfloat16."""
        exact = {name: value for name in ("scale", "input_scale") if (value := getattr(self, name)) is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in exact.items():
            if getattr(self, name).dtype != value.dtype:
                setattr(self, name, value.to(getattr(self, name).device))
        self._packed = None
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what is packed cannot be copied, and is made again."""
        return {**self.__dict__, "_packed": None}


def quantized_input(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q_x (..., I) as whole floats, and s_x and z (..., 1), of activations (..., I)."""
    scale, zero = _affine(*(end.unsqueeze(-1) for end in tokens.aminmax(dim=-1)))
    return ((tokens / scale).round() + zero).clamp(0, INPUT_LIMIT), scale, zero


def _affine(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """s_x and z for values from `low` to `high`, so that 0 is a whole number."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / INPUT_LIMIT).clamp(min=1e-12)
    return scale, (-low / scale).round().clamp(0, INPUT_LIMIT)


def _in_floats_only(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_exporting()
