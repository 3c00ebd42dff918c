"""Pruning: single weights at zero, or whole channels, heads and layers taken out.

    prune:ffn=0.3,heads=0.25         a smaller model: fewer channels of each MLP, fewer heads of each attention
    prune:layers=2                   two layers less in each stack
    prune:sparsity=0.5               half of all weights at zero (Han et al. 2015, arXiv:1506.02626)
    prune:two_of_four=true           2:4: of 4 weights next to each other in a row, the 2 smallest at zero

Channels, heads and layers really make a model smaller and faster. Weights at zero do not: the products of matrices that
a CPU has multiply zeros as they do other numbers, and the file is as long as before. What is gained is that the file
compresses (zip, zstd), and that hardware with sparse products can use it.

Shapes: U units of a group.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from polymodal.artifact import Model
from polymodal.compress.calibration import losses, passes
from polymodal.compress.importance import Scores, by_activation, by_magnitude, by_taylor
from polymodal.compress.sparse import matrices, put_zeros, two_of_four
from polymodal.compress.step import Step, Work
from polymodal.compress.units import (
    Group,
    Stack,
    find_channels,
    find_heads,
    find_stacks,
    remove_layers,
    remove_units,
)
from polymodal.errors import ArtifactError, ConfigError
from polymodal.layers.compressed import LowRankLinear
from polymodal.models.clip import Clip
from polymodal.models.ensemble import ClipEnsemble, Ensemble
from polymodal.models.forms import Change, Forms

Share = Annotated[float, Field(gt=0, lt=1)]


class Prune(Step):
    kind: Literal["prune"] = "prune"
    ffn: Share | None = None  # of the hidden channels of each MLP
    heads: Share | None = None  # of the heads of each attention
    layers: Annotated[int, Field(ge=1, strict=True)] | Share | None = None  # of each stack: how many, or which share
    sparsity: Share | None = None  # of all single weights of linear layers and convolutions
    two_of_four: bool = False
    by: Literal["taylor", "activation", "magnitude"] = "taylor"  # see compress/importance.py; single weights: magnitude
    scope: Literal["each", "model"] = "each"  # model: the share is of all together, least important first wherever
    only: tuple[str, ...] = ()  # shell patterns of dotted names, [image_encoder.*]: nothing else is pruned
    rows: int = Field(256, ge=2)  # of the table, to judge importance by

    @model_validator(mode="after")
    def _asks_something(self) -> "Prune":
        if not (self._takes_out or self.sparsity or self.two_of_four):
            raise ValueError("say what to prune: ffn=0.3, heads=0.25, layers=2, sparsity=0.5 or two_of_four=true")
        if self.sparsity and self.two_of_four:
            raise ValueError("sparsity and two_of_four are two patterns of zeros; choose one")
        return self

    @property
    def _takes_out(self) -> bool:
        return any(asked is not None for asked in (self.ffn, self.heads, self.layers))

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model is quantized, or made of several models.
            ConfigError: there is nothing to prune, or nothing would be left.
            DataError: the rows do not allow to judge importance.
        """
        refuse_other_models(work)
        model = work.copy()
        notes = list(_untouched(model, self)) if self._takes_out else []
        if self.layers is not None:
            notes += self._leave_out_layers(work, model)
        if self.ffn is not None or self.heads is not None:
            notes += self._take_out_units(work, model)
        if self.sparsity is not None or self.two_of_four:
            notes += self._put_zeros(work, model)
        return replace(work, model=model, notes=(*work.notes, *notes))

    def _leave_out_layers(self, work: Work, model: Model) -> list[str]:
        assert self.layers is not None
        stacks = [stack for stack in find_stacks(model) if self._chosen(*stack.lists)]
        if not stacks:
            raise ConfigError(f'step "prune": layers: {_nothing(model, self.only)} no stack of layers')
        scores = self._scores(work, model, [], stacks)
        sizes = {stack.name: (stack.size, stack.least) for stack in stacks}
        counts = {name: self.layers if isinstance(self.layers, int) else self.layers * size
                  for name, (size, _) in sizes.items()}  # fmt: skip
        gone = _least(scores, {name: least for name, (_, least) in sizes.items()}, counts, self.scope, "layers")
        for stack in stacks:
            numbers = [stack.first + number for number in gone[stack.name].tolist()]
            model.forms = _extended(model, remove_layers(model, stack, numbers))
            if numbers:
                left = stack.size - len(numbers)
                work.say(f"{stack.name or 'model'}: {stack.size} -> {left} layers, without {_listed(numbers)}")
        return self._spared("layers", gone)

    def _take_out_units(self, work: Work, model: Model) -> list[str]:
        asked = {"channels": ("ffn", self.ffn, find_channels), "heads": ("heads", self.heads, find_heads)}
        whose = {"channels": "MLPs", "heads": "attentions"}
        wanted = {kind: share for kind, (_, share, _) in asked.items() if share is not None}
        groups = {kind: [group for group in asked[kind][2](model) if self._chosen(group.name)] for kind in wanted}
        for kind, found in groups.items():
            if not found:
                what = "MLP between two linear layers" if kind == "channels" else "attention"
                raise ConfigError(f'step "prune": {asked[kind][0]}: {_nothing(model, self.only)} no {what}')
        scores = self._scores(work, model, [group for found in groups.values() for group in found], [])
        notes: list[str] = []
        for kind, found in groups.items():
            own = {group.name: scores[group.name] for group in found}
            counts = {group.name: wanted[kind] * group.size for group in found}
            gone = _least(own, dict.fromkeys(own, 1), counts, self.scope, asked[kind][0])
            for group in found:
                kept = torch.ones(group.size, dtype=torch.bool).index_fill(0, gone[group.name], False)
                if not kept.all():
                    model.forms = _extended(model, remove_units(model, group, kept.nonzero()[:, 0]))
            removed, size = sum(len(one) for one in gone.values()), sum(group.size for group in found)
            work.say(f"{removed:,} of {size:,} {kind} are gone, from {len(found)} {whose[kind]}")
            notes += self._spared(asked[kind][0], gone)
        return notes

    def _spared(self, option: str, gone: Mapping[str, Tensor]) -> list[str]:
        """What to say of those whose share is less than half a unit."""
        spared = [name or "the model" for name, numbers in gone.items() if not len(numbers)]
        if self.scope == "model" or not spared:
            return []
        return [f"prune: {option}: the share is less than one for {_listed(spared)}, of which nothing went"]

    def _scores(self, work: Work, model: Model, groups: Sequence[Group], stacks: Sequence[Stack]) -> Scores:
        match self.by:
            case "taylor":
                return by_taylor(model, groups, stacks, losses(work, model, self.rows))
            case "activation":
                scores = by_activation(model, groups, stacks, passes(work, model, self.rows))
            case "magnitude":
                scores = by_magnitude(model, groups, stacks)
        # These differ in scale from layer to layer; only as multiples of their mean can layers be compared.
        return {name: score / score.mean().clamp(min=1e-30) for name, score in scores.items()}

    def _put_zeros(self, work: Work, model: Model) -> list[str]:
        weights = {name: weight for name, weight in matrices(model).items() if self._chosen(name)}
        if not weights:
            raise ConfigError(f'step "prune": {_nothing(model, self.only)} no linear layer and no convolution')
        notes = []
        if self.two_of_four:
            fitting = {
                name: weight for name, weight in weights.items() if weight.ndim == 2 and weight.shape[1] % 4 == 0
            }
            if not fitting:
                raise ConfigError('step "prune": two_of_four: no linear layer has a multiple of 4 inputs')
            if left := weights.keys() - fitting.keys():
                notes.append(f"prune: 2:4 is for linear layers of a multiple of 4 inputs; left dense: {_listed(left)}")
            for weight in fitting.values():
                weight.data = two_of_four(weight.data)
        else:
            assert self.sparsity is not None
            put_zeros(list(weights.values()), self.sparsity, self.scope)
        zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        total = sum(weight.numel() for weight in weights.values())
        work.say(f"{zeros:,} of {total:,} weights in {len(weights)} layers are zero")
        return [*notes, "prune: weights at zero save neither time nor memory here, only bytes of a compressed file"]

    def _chosen(self, *names: str) -> bool:
        return not self.only or any(fnmatchcase(name, pattern) for name in names for pattern in self.only)


def _least(
    scores: Scores, least: Mapping[str, int], counts: Mapping[str, float], scope: str, option: str
) -> dict[str, Tensor]:
    """Numbers of what goes, by name: `counts` of each, or their sum of all together, the least important first.

    Args:
        least: how many of each must stay.

    Raises:
        ConfigError: too few would stay, or none would go.
    """
    if scope == "model":
        return _least_of_all(scores, least, sum(counts.values()), option)
    gone = {}
    for name, score in scores.items():
        count, most = round(counts[name]), len(score) - least[name]
        if count > most:
            raise ConfigError(
                f'step "prune": {option}: "{name or "model"}" has {len(score)}, so {count} cannot go; at most {most} '
                "can; ask less, or leave it out by only=[...]"
            )
        gone[name] = score.argsort(stable=True)[:count]
    if not any(len(numbers) for numbers in gone.values()):
        raise ConfigError(
            f'step "prune": {option} is so little that nothing goes: the largest has '
            f"{max(len(score) for score in scores.values())}; ask more"
        )
    return gone


def _least_of_all(scores: Scores, least: Mapping[str, int], wanted: float, option: str) -> dict[str, Tensor]:
    count = max(1, round(wanted))
    # The most important ones of each stay, whatever the others have.
    free = {name: score.argsort(stable=True)[: len(score) - least[name]] for name, score in scores.items()}
    most = sum(len(numbers) for numbers in free.values())
    if count > most:
        raise ConfigError(
            f'step "prune": {option}: {count} shall go and at most {most} can, for some of each must stay; ask less'
        )
    ranked = sorted((float(scores[name][number]), name, number) for name in free for number in free[name].tolist())
    return {
        name: torch.tensor([number for _, one, number in ranked[:count] if one == name], dtype=torch.int64)
        for name in scores
    }


def refuse_other_models(work: Work) -> None:
    """
    Raises:
        ArtifactError: the model is quantized, or made of several models.
    """
    if isinstance(work.model, Ensemble | ClipEnsemble):
        raise ArtifactError(
            f'"{work.artifact.folder}" is made of several models; compress each of them, then put them together'
        )
    if work.model.forms.stored or any(change.form.kind == "int8" for change in work.model.forms.changes):
        raise ArtifactError(
            f'"{work.artifact.folder}" is quantized already, and what is quantized cannot be pruned; prune the '
            "artifact that it was made of, and quantize afterwards"
        )


def _untouched(model: Model, step: Prune) -> Iterator[str]:
    """What to say of whole parts of the model in which nothing of what was asked can be taken out."""
    found = [group.name for find, asked in ((find_channels, step.ffn), (find_heads, step.heads)) if asked
             for group in find(model)]  # fmt: skip
    found += [name for stack in find_stacks(model) for name in stack.lists] if step.layers is not None else []
    factorized = [name for name, module in model.named_modules() if isinstance(module, LowRankLinear)]
    if factorized and (step.ffn or step.heads):
        yield f"prune: {len(factorized)} linear layers are products of two and stay so: prune before low_rank"
    for name, part in _parts(model).items():
        weights = sum(weight.numel() for weight in part.parameters())
        if weights and not any(one == name or one.startswith(f"{name}.") for one in found):
            yield f"prune: {name} ({type(part).__name__}, {weights:,} weights) has nothing of the kind and stays whole"


def _parts(model: Model) -> dict[str, nn.Module]:
    """Encoders and fusion by their dotted names."""
    if isinstance(model, Clip):
        return {name: model.get_submodule(name) for name in ("image_encoder", "text_encoder")}
    encoders = {f"encoders.{name}": module for name, module in model.get_submodule("encoders").named_children()}
    return encoders | {"fusion": model.get_submodule("fusion")}


def _nothing(model: Model, only: Sequence[str]) -> str:
    parts = ", ".join(f"{name} {type(part).__name__}" for name, part in _parts(model).items())
    if any(isinstance(module, LowRankLinear) for module in model.modules()):
        parts += "; what low_rank made products of two does not count: prune before it"
    return f"what only={list(only)} leaves of the model ({parts}) has" if only else f"the model ({parts}) has"


def _extended(model: Model, changes: Iterable[Change]) -> Forms:
    return model.forms.model_copy(update={"changes": (*model.forms.changes, *changes)})


def _listed(items: Iterable[object], most: int = 5) -> str:
    names = sorted(map(str, items))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
