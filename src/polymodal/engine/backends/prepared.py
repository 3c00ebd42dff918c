"""A model arranged for answering alone: the same answers from packed, rounded or fused layers that no longer learn.

Every module tree goes: linear layers are replaced wherever they stand, all else is shared with the model.
Shapes: I inputs; O outputs.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from polymodal import machine
from polymodal.engine.backends import Precision
from polymodal.layers.attention import Attention, CrossAttention
from polymodal.layers.compressed import Int8Linear
from polymodal.layers.mlp import Mlp, QuickGelu

QUICK = 1.702  # of QuickGelu: x σ(1.702 x) = silu(1.702 x) / 1.702
SMALL = 64  # int8 costs two passes over the input, which fewer outputs do not earn back


class PackedLinear(nn.Module):
    """A linear layer whose weights lie as oneDNN wants them; where torch has no oneDNN, a plain one.

    torch's own float32 product takes another library that copies the weights into blocks at every call: of a single
    picture or text, whose rows are few, that is half of the time.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, out_dtype: torch.dtype, factor: float = 1.0) -> None:
        """Args: factor: the weights are multiplied by it (the bias is not)."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype, self.out_dtype = dtype, out_dtype
        weight = (layer.weight.detach() * factor if factor != 1 else layer.weight.detach()).to(dtype)
        self.offset = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.packs = weight.device.type == "cpu" and has_onednn(dtype)
        # Neither a parameter nor a buffer: an opaque tensor can be neither saved nor moved.
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packs else weight
        if self.packs:
            put_away(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) of (..., I)."""
        x = x.to(self.dtype)
        if not self.packs:
            return linear(x, self.packed, self.offset).to(self.out_dtype)
        if x.numel() == 0:
            return x.new_zeros((*x.shape[:-1], self.out_features), dtype=self.out_dtype)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.offset, "none", [], "")
        return out.to(self.out_dtype)


def put_away(layer: nn.Linear) -> None:
    """One copy of the weights is enough: the artifact's file, which is mapped, need not stay in memory beside it."""
    if layer.weight.device.type == "cpu":
        machine.page_out(layer.weight.data_ptr(), layer.weight.numel() * layer.weight.element_size())


def has_onednn(dtype: torch.dtype = torch.float32) -> bool:
    """Whether torch can pack weights of this type here; bfloat16 it packs only for CPUs that multiply it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prepared(module: nn.Module, precision: Precision) -> nn.Module:
    """The module for `inference_mode`; it shares with the given one what is not replaced.

    float32: linear layers packed. bfloat16: their products in bfloat16, and what lies between those of one attention
    or MLP; norms, residuals and convolutions stay float32. int8: dynamic (`layers.compressed.Int8Linear`), layers of
    few outputs stay float32. What compression has rounded before stays as it is.
    """
    return _twin(module, _linears(precision))


Replace = Callable[[nn.Linear, torch.dtype, float], nn.Module]  # layer, type of what it gives, factor of its weights


def _linears(precision: Precision) -> tuple[Replace, torch.dtype]:
    """What replaces a linear layer, and the type between two of one block."""

    def packed(layer: nn.Linear, out: torch.dtype, factor: float) -> nn.Module:
        return PackedLinear(layer, torch.bfloat16 if precision == "bfloat16" else torch.float32, out, factor)

    def integers(layer: nn.Linear, out: torch.dtype, factor: float) -> nn.Module:
        if min(layer.out_features, layer.in_features) < SMALL:
            return packed(layer, out, factor)
        rounded = Int8Linear.of(_scaled(layer, factor) if factor != 1 else layer)
        put_away(layer)
        return rounded

    return (integers if precision == "int8" else packed), (torch.bfloat16 if precision == "bfloat16" else torch.float32)


def _twin(module: nn.Module, how: tuple[Replace, torch.dtype]) -> nn.Module:
    replace, inner = how
    if type(module) is nn.Linear:
        return replace(module, torch.float32, 1.0)
    twin = copy.copy(module)
    children: dict[str, Any] = {
        name: None if child is None else _twin(child, how) for name, child in module._modules.items()
    }
    if isinstance(module, Attention | CrossAttention):
        for name in ("qkv", "q", "kv"):
            if type(layer := module._modules.get(name)) is nn.Linear:
                children[name] = replace(layer, inner, 1.0)
    if isinstance(module, Mlp):
        children |= _mlp(module, replace, inner)
    twin._modules = children
    return twin


def _mlp(module: Mlp, replace: Replace, inner: torch.dtype) -> dict[str, nn.Module]:
    first, second = module.fc1, module.fc2
    if type(first) is not nn.Linear or type(second) is not nn.Linear:
        return {}
    if not isinstance(module.act, QuickGelu):
        return {"fc1": replace(first, inner, 1.0)}
    # One pass in the place of three, and no memory: the factors go into the weights on both sides.
    bias = _scaled(first, 1.0, bias=QUICK)
    return {
        "fc1": replace(bias, inner, QUICK),
        "act": nn.SiLU(inplace=True),
        "fc2": replace(second, torch.float32, 1 / QUICK),
    }


def _scaled(layer: nn.Linear, factor: float, bias: float = 1.0) -> nn.Linear:
    """A copy with weights (and with `bias` its bias) multiplied."""
    with torch.device("meta"):
        new = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    new.weight = nn.Parameter(layer.weight.detach() * factor if factor != 1 else layer.weight.detach(), False)
    if layer.bias is not None:
        new.bias = nn.Parameter(layer.bias.detach() * bias, False)
    return new
