"""What can be taken out of a model whole: channels of MLPs, heads of attentions, layers of stacks.

Parts are known by their type, wherever in a model they stand, so that this file is the only one that knows how they are
made. Nothing here chooses; `importance` and `prune` do.

Shapes: U units of a group; P rows or columns that one of them owns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from polymodal.encoders.clip_resnet import GridAttentionPool
from polymodal.encoders.record import RecordMlp
from polymodal.fusion.adversarial import Aligned
from polymodal.fusion.bottleneck import Bottleneck
from polymodal.fusion.coattention import Coattention, Connection
from polymodal.fusion.cross_attention import CrossEncoder
from polymodal.fusion.crossmodal import CrossModal
from polymodal.fusion.fuse_text import FuseText
from polymodal.layers.attention import Attention, CrossAttention
from polymodal.layers.mlp import Mlp, QuickGelu
from polymodal.layers.transformer import Transformer
from polymodal.models import heads
from polymodal.models.forms import Change, HeadsForm, LeftOutForm, LinearForm, put
from polymodal.models.multimodal import Multimodal

# Between two linear layers of a chain these keep a channel of zeros at zero, so that nobody misses it.
KEEPS_ZERO = (nn.ReLU, nn.GELU, QuickGelu, nn.Tanh, nn.Dropout, nn.Identity)


class Slice(NamedTuple):
    """Where a group's units stand in one linear layer."""

    linear: str  # its dotted name
    dim: Literal[0, 1]  # 0: rows of the weight, and of the bias: what it gives; 1: columns: what it takes
    places: Tensor  # (U, P) int64


@dataclass(frozen=True)
class Group:
    """Units that only differ in their weights, so that any of them can go."""

    name: str  # dotted name of the MLP or attention
    kind: Literal["channels", "heads"]
    slices: tuple[Slice, ...]
    headed: tuple[str, ...] = ()  # names of the modules that count their heads

    @property
    def size(self) -> int:
        """U."""
        return len(self.slices[0].places)


@dataclass(frozen=True)
class Stack:
    """Layers of which each can go; several lists where a layer has a part in each, as LXMERT's."""

    name: str  # dotted name of the module that runs them
    lists: tuple[str, ...]  # dotted names of the `nn.ModuleList`s, equally long from `first` on
    first: int  # number of the first layer that can go
    size: int  # how many can go from there on
    least: int = 1  # how many of these must stay


class _Heads(NamedTuple):
    """An attention's linear layers by their names in it."""

    inner: tuple[tuple[str, int], ...]  # those whose rows are heads, and how often all heads follow on each other
    out: tuple[str, ...]  # those whose columns are heads
    counted: tuple[str, ...] = ("",)  # modules with the number of heads; "": the attention itself


_HEADED: dict[type[nn.Module], _Heads] = {
    Attention: _Heads((("qkv", 3),), ("out",)),
    CrossAttention: _Heads((("q", 1), ("kv", 2)), ("out",)),
    GridAttentionPool: _Heads((("q_proj", 1), ("k_proj", 1), ("v_proj", 1)), ("c_proj",)),
    # Head h of either side asks head h of the other, so it leaves both.
    Connection: _Heads((("first.qkv", 3), ("second.qkv", 3)), ("first.out", "second.out"), ("first", "second")),
}


def find_channels(model: nn.Module) -> list[Group]:
    """The hidden channels between two linear layers of every MLP, one group an MLP."""
    groups = []
    for name, module in running(model):
        for up, down in _chains(module):
            first, second = _join(name, up), _join(name, down)
            each = torch.arange(linear(model, first).out_features)[:, None]
            groups.append(Group(first, "channels", (Slice(first, 0, each), Slice(second, 1, each))))
    return groups


def find_heads(model: nn.Module) -> list[Group]:
    """The heads of every attention, one group an attention."""
    groups = []
    for name, module in running(model):
        made = _HEADED.get(type(module))
        if made is None or not all(_plain(module, part) for part in (*dict(made.inner), *made.out)):
            continue
        count = getattr(module.get_submodule(made.counted[0]), "heads")  # noqa: B009  # a plain int of our attentions
        inner = [Slice(_join(name, part), 0, _rows(module, part, count, times)) for part, times in made.inner]
        outer = [Slice(_join(name, part), 1, _columns(module, part, count)) for part in made.out]
        groups.append(Group(name, "heads", (*inner, *outer), tuple(_join(name, part) for part in made.counted)))
    return groups


def find_stacks(model: nn.Module) -> list[Stack]:
    """Every stack of layers whose removal leaves the rest working; a stack inside another's layers is not counted."""
    stacks: list[Stack] = []
    inside: list[str] = []  # what belongs to a stack that was found
    for name, module in running(model):
        if any(name == taken or name.startswith(f"{taken}.") for taken in inside):
            continue
        match module:
            case CrossModal():
                blocks = tuple(_join(name, f"blocks.{part}") for part in module.blocks)
                stack = Stack(name, (_join(name, "exchanges"), *blocks), 0, len(module.exchanges))
            case Bottleneck():  # a layer writes into the bottlenecks and the next reads, so two must stay
                lists = tuple(_join(name, f"stacks.{number}") for number in range(len(module.stacks)))
                separate = module.config.separate
                stack = Stack(name, lists, separate, len(model.get_submodule(lists[0])) - separate, least=2)  # type: ignore[arg-type]
            case Coattention():
                stack = Stack(name, (_join(name, "stages"),), 0, len(module.stages))
            case CrossEncoder() | FuseText():
                stack = Stack(name, (_join(name, "blocks"),), 0, len(module.blocks))
            case Transformer():
                stack = Stack(name, (name,), 0, len(module))
            case _:
                continue
        inside += stack.lists
        stacks.append(stack)
    return [stack for stack in stacks if stack.size]


def running(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Named modules without those that only training runs: heads for pre-training, an adversary."""
    idle = {"pretraining"} if isinstance(model, Multimodal) else set()
    for name, module in model.named_modules():
        if isinstance(module, Aligned):
            idle.add(_join(name, "discriminator"))
        if not any(name == part or name.startswith(f"{part}.") for part in idle):
            yield name, module


@torch.no_grad()
def remove_units(model: nn.Module, group: Group, kept: Tensor) -> list[Change]:
    """Leave only the units numbered `kept`, in their old order, in the group's linear layers; what that changes."""
    kept = kept.sort().values
    for part in group.slices:
        layer = linear(model, part.linear)
        places = part.places[kept].flatten().sort().values.to(layer.weight.device)
        layer.weight = nn.Parameter(layer.weight.index_select(part.dim, places), layer.weight.requires_grad)
        if part.dim == 1:
            layer.in_features = len(places)
            continue
        layer.out_features = len(places)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[places], layer.bias.requires_grad)
    for name in group.headed:
        model.get_submodule(name).heads = len(kept)  # type: ignore[assignment]  # a plain int of our attentions
    if group.headed:
        return [Change(module=name, form=HeadsForm(heads=len(kept))) for name in group.headed]
    return [Change(module=part.linear, form=_form(model, part.linear)) for part in group.slices]


def remove_layers(model: nn.Module, stack: Stack, gone: Iterable[int]) -> list[Change]:
    """Take the layers numbered `gone`, counted from the list's beginning, out of all lists; what that changes."""
    changes = [
        Change(module=f"{name}.{number}", form=LeftOutForm())
        for name in stack.lists
        for number in sorted(gone, reverse=True)  # from behind: those behind a layer take its number
    ]
    for change in changes:
        put(model, change.module, change.form)
    return changes


def _form(model: nn.Module, name: str) -> LinearForm:
    layer = linear(model, name)
    return LinearForm(inputs=layer.in_features, outputs=layer.out_features)


def linear(model: nn.Module, name: str) -> nn.Linear:
    """The linear layer of that name."""
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _chains(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of pairs of linear layers with nothing between them but what keeps zeros at zero."""
    match module:
        case Mlp():
            names = ["fc1", "fc2"]
        case heads.Mlp() if isinstance(module.norm, nn.Identity):  # a LayerNorm sees all channels at once
            names = ["fc1", "fc2"]
        case RecordMlp():
            names = [f"blocks.{number}.0" for number in range(len(module.blocks))]
        case nn.Sequential() if all(isinstance(part, (nn.Linear, *KEEPS_ZERO)) for part in module):
            names = [name for name, part in module.named_children() if not isinstance(part, KEEPS_ZERO)]
        case _:
            return
    yield from (pair for pair in pairwise(names) if all(_plain(module, name) for name in pair))


def _plain(module: nn.Module, name: str) -> bool:
    """Not one that was quantized, factorized or adapted before, whose rows stand elsewhere."""
    return type(module.get_submodule(name)) is nn.Linear


def _rows(module: nn.Module, name: str, count: int, times: int) -> Tensor:
    """(U, P): heads follow on each other, `times` over."""
    return torch.arange(linear(module, name).out_features).view(times, count, -1).transpose(0, 1).flatten(1)


def _columns(module: nn.Module, name: str, count: int) -> Tensor:
    return torch.arange(linear(module, name).in_features).view(count, -1)


def _join(name: str, part: str) -> str:
    return ".".join(filter(None, (name, part)))
