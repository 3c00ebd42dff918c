"""A student's layers that imitate a teacher's: states and attention of transformer blocks.

Shapes: B rows; L tokens; D width; H heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.layers.packing import Layout
from polymodal.layers.transformer import Block
from polymodal.objectives.distillation import attention, hidden_states, layer_map


class Seen(NamedTuple):
    given: Tensor  # (B, L, D)
    said: Tensor  # (B, L, D)
    keys: Tensor | None  # as `Block.weights` takes them


class Recorder:
    """What the blocks of a tower were given and said, since it was last cleared."""

    def __init__(self, tower: nn.Module) -> None:
        self.blocks = [module for module in tower.modules() if isinstance(module, Block)]
        self.seen: list[Seen] = []
        self._hooks = [block.register_forward_hook(self._see) for block in self.blocks]

    def _see(self, block: nn.Module, given: tuple[Any, ...], said: Tensor) -> None:
        x, mask, causal = given
        layout = mask if isinstance(mask, Layout) else Layout(mask)
        keys = layout.keys
        if causal:
            length = x.shape[1]
            keys = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        self.seen.append(Seen(layout.pad(x), layout.pad(said), keys))

    def maps(self, number: int) -> Tensor:
        """(B, H, L, L), who looked at whom in a block."""
        return self.blocks[number].weights(self.seen[number].given, self.seen[number].keys)

    @property
    def width(self) -> int:
        """D."""
        return self.blocks[0].norm1.normalized_shape[0]

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()


class Layers(nn.Module):
    """The towers of one teacher that a student imitates layer by layer; it learns projections where widths differ.

    Which layer imitates which, `layer_map` says. Both run on the same batch, so both must see the same tokens.
    """

    def __init__(self, student: Mapping[str, nn.Module], teacher: Mapping[str, nn.Module]) -> None:
        """
        Args:
            student, teacher: towers by the same names; those without transformer blocks, or locked, are passed over.

        Raises:
            ConfigError: none is left.
        """
        super().__init__()
        self.pairs: dict[str, tuple[Recorder, Recorder]] = {}
        for name, tower in student.items():
            if name in teacher and _has_blocks(tower) and _has_blocks(teacher[name]) and _learns(tower):
                self.pairs[name] = (Recorder(tower), Recorder(teacher[name]))
        if not self.pairs:
            raise ConfigError(
                f"distill: hidden and attention imitate transformer blocks, and none of {', '.join(student)} has some "
                "that learn, in student and teacher; leave both out (hidden=0,attention=0)"
            )
        self.projections = nn.ModuleDict(
            {str(nth): _projection(own.width, other.width) for nth, (own, other) in enumerate(self.pairs.values())}
        )

    def clear(self) -> None:
        """To be called before each step."""
        for own, other in self.pairs.values():
            own.seen.clear()
            other.seen.clear()

    def stop(self) -> None:
        for own, other in self.pairs.values():
            own.stop()
            other.stop()

    def losses(self, masks: Mapping[str, Tensor], *, hidden: bool, maps: bool) -> dict[str, Tensor]:
        """`hidden` and `attention` as means over towers and layers, of those asked for; 0 where no tower has run.

        Args:
            masks: (B, L) by the tower's name, True at tokens that count.
        """
        found: dict[str, list[Tensor]] = {"hidden": [], "attention": []}
        for projection, (name, (own, other)) in zip(self.projections.values(), self.pairs.items(), strict=True):
            mask = masks.get(name)
            if mask is None or not own.seen or not mask.any():
                continue
            mask = _of_blocks(mask, own.seen[0].said)
            for one, two in enumerate(layer_map(len(own.blocks), len(other.blocks))):
                if hidden:
                    student, teacher = own.seen[one].said, other.seen[two].said
                    found["hidden"].append(hidden_states(projection(student), teacher, mask))
                if maps:
                    found["attention"].append(attention(own.maps(one), other.maps(two).detach(), mask))
        asked = [name for name, wanted in (("hidden", hidden), ("attention", maps)) if wanted]
        return {name: _mean(found[name]) for name in asked}


def _of_blocks(mask: Tensor, said: Tensor) -> Tensor:
    """The mask of an encoder's tokens as one of its blocks', which may have some more: then all of rows that count."""
    return mask if mask.shape == said.shape[:2] else mask.any(1, keepdim=True).expand(said.shape[:2])


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean() if values else torch.zeros(())


def _has_blocks(tower: nn.Module) -> bool:
    return any(isinstance(module, Block) for module in tower.modules())


def _learns(tower: nn.Module) -> bool:
    return any(weight.requires_grad for weight in tower.parameters())


def _projection(width: int, wanted: int) -> nn.Module:
    return nn.Identity() if width == wanted else nn.Linear(width, wanted, bias=False)
