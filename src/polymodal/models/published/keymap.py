"""Key maps between our names and those of a released checkpoint, both ways.

A map is a list of `Entry`. Their names are the ones on disk: transformers 5 renames some in memory, never in files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymodal.errors import ArtifactError

State = dict[str, Tensor]
Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class Entry:
    """Tensors of ours and of theirs that hold the same numbers, each side joined along its first dimension."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transpose: bool = False
    leading: int = 0  # dimensions of size 1 that stand in front on their side only


def same(ours: str, theirs: str, transpose: bool = False, leading: int = 0) -> Entry:
    return Entry((ours,), (theirs,), transpose, leading)


def affine(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
    """Weight and bias of a layer."""
    return [same(f"{ours}.{part}", f"{theirs}.{part}") for part in (("weight", "bias") if bias else ("weight",))]


def batch_norm(ours: str, theirs: str) -> list[Entry]:
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return affine(ours, theirs) + [same(f"{ours}.{part}", f"{theirs}.{part}") for part in statistics]


@dataclass(frozen=True)
class BlockNames:
    """What a transformer block's layers are called; `qkv` has one name, or one each for query, key and value."""

    norm1: str
    qkv: tuple[str, ...]
    out: str
    norm2: str
    fc1: str
    fc2: str

    def entries(self, ours: str, theirs: str, layers: int, start: int = 0) -> list[Entry]:
        """Entries of all blocks, `ours`.0 and `theirs`.`start` the first."""
        pairs = {
            "norm1": self.norm1,
            "attention.out": self.out,
            "norm2": self.norm2,
            "mlp.fc1": self.fc1,
            "mlp.fc2": self.fc2,
        }
        found: list[Entry] = []
        for layer in range(layers):
            for our, their in pairs.items():
                found += affine(f"{ours}.{layer}.{our}", f"{theirs}.{start + layer}.{their}")
            for part in ("weight", "bias"):
                joint = tuple(f"{theirs}.{start + layer}.{name}{part}" for name in self.qkv)
                found.append(Entry((f"{ours}.{layer}.attention.qkv.{part}",), joint))
        return found


def to_ours(state: Mapping[str, Tensor], entries: Sequence[Entry], shapes: Shapes, where: str) -> State:
    """Our tensors, in float32, of a checkpoint's.

    Args:
        state: the checkpoint; every key must have a place.
        shapes: of our tensors, all of which must be found.
        where: the checkpoint's name, for errors.

    Raises:
        ArtifactError: names the keys that are missing, those that have no place, or a shape that does not fit.
    """
    theirs = {name for entry in entries for name in entry.theirs}
    _refuse(where, "are missing", sorted(theirs - state.keys()))
    _refuse(where, "have no place in this config", sorted(state.keys() - theirs))
    found: State = {}
    for entry in entries:
        joined = _join([state[name] for name in entry.theirs], entry.leading)
        joined = joined.T if entry.transpose else joined
        wanted = [shapes[name] for name in entry.ours]
        rows = [shape[0] if shape else 1 for shape in wanted]
        fits = joined.shape[1:] == wanted[0][1:] and (sum(rows) == joined.shape[0] if joined.ndim else not wanted[0])
        if not fits:
            raise ArtifactError(
                f"{where}: {', '.join(entry.theirs)} must give {' and '.join(str(tuple(shape)) for shape in wanted)}, "
                f"got {tuple(joined.shape)}; config and weights do not belong together"
            )
        pieces = joined.split(rows) if len(rows) > 1 else [joined]
        found |= {name: _float(piece) for name, piece in zip(entry.ours, pieces, strict=True)}
    return found


def to_theirs(state: Mapping[str, Tensor], entries: Sequence[Entry]) -> State:
    """The checkpoint's tensors of ours."""
    found: State = {}
    for entry in entries:
        joined = _join([state[name] for name in entry.ours], 0)
        joined = joined.T if entry.transpose else joined
        for name, piece in zip(entry.theirs, joined.chunk(len(entry.theirs)) if joined.ndim else [joined], strict=True):
            # A copy of its own: safetensors refuses tensors that share memory.
            found[name] = piece.reshape((1,) * entry.leading + piece.shape).detach().clone().contiguous()
    return found


def _join(tensors: list[Tensor], leading: int) -> Tensor:
    joined = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    if leading and joined.ndim >= leading and joined.shape[:leading] == (1,) * leading:
        return joined.reshape(joined.shape[leading:])
    return joined


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _refuse(where: str, what: str, names: Iterable[str]) -> None:
    if names := list(names):
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise ArtifactError(f"{where}: {len(names)} weights {what}: {shown}")
