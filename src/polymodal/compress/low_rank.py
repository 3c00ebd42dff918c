"""Linear layers as the product of two thinner ones, where that is smaller.

    low_rank:energy=0.95     as many ranks as keep 95 % of what each layer says
    low_rank:rank=0.5        half of the ranks that each layer has

W x is approximated by B A x with A (r, I) and B (O, r). The plain way cuts the singular value decomposition of W. By
rows (the default), the error is counted where the inputs lie: of W L with L Lᵀ the covariance of the layer's inputs on
calibration rows, which gives the least mean squared error of the outputs (Wang et al. 2024, arXiv:2403.07378, SVD-LLM,
section 3.1, "truncation-aware data whitening"; Yuan et al. 2023, arXiv:2312.05821, ASVD, weighs channels only). Their
matrix is the second moment; where a layer has a bias it takes up the means, so that the covariance is enough. A share
of the energy so keeps far fewer ranks than the same share by weights: what comes out varies in few directions.

Shapes: O outputs of a layer; I inputs; r its rank; T tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from polymodal.compress.calibration import passes
from polymodal.compress.prune import refuse_other_models
from polymodal.compress.step import Step, Work
from polymodal.compress.units import linear, running
from polymodal.errors import ConfigError, DataError
from polymodal.layers.compressed import LowRankLinear
from polymodal.models.forms import LowRankForm, put

Share = Annotated[float, Field(gt=0, lt=1)]
# Of the mean variance, added to every direction of the inputs, so that those which the rows do not show are not taken
# for impossible; the share is that of GPTQ (Frantar et al. 2022, arXiv:2210.17323, section 3.3).
DAMPING = 0.01
MOST_TOKENS = 1024  # of a batch that a layer's covariance is summed over


class Factors(NamedTuple):
    first: Tensor  # A (r, I)
    second: Tensor  # B (O, r)
    bias: Tensor | None  # (O,)
    kept: float  # of the energy, 0 to 1


class LowRank(Step):
    kind: Literal["low_rank"] = "low_rank"
    energy: Share | None = None  # of the squared singular values, that are kept in each layer
    rank: Share | None = None  # of min(I, O), in each layer
    by: Literal["rows", "weights"] = "rows"  # weights: the plain decomposition of W, which needs no rows
    only: tuple[str, ...] = ()  # shell patterns of layers' dotted names: no other is factorized
    rows: int = Field(256, ge=2)  # of the table, to see the layers' inputs by

    @model_validator(mode="after")
    def _asks_one_thing(self) -> "LowRank":
        if (self.energy is None) == (self.rank is None):
            raise ValueError("wanted either energy (energy=0.95) or rank (rank=0.5)")
        return self

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model is quantized, or made of several models.
            ConfigError: no layer would be smaller.
            DataError: the calibration rows are all alike.
        """
        refuse_other_models(work)
        model = work.copy()
        names = [name for name, module in running(model) if type(module) is nn.Linear and self._chosen(name)]
        if not names:
            raise ConfigError(f'step "low_rank": only={list(self.only)} fits no linear layer of the model')
        seen = self._seen(work, names)
        before = after = count = 0
        for name in names:
            layer = linear(model, name)
            size, ends = layer.weight.numel(), layer.in_features + layer.out_features
            most = (size - 1) // ends  # r (I + O) < I O
            if most and (factors := self._factors(layer, seen.get(name), most)) is not None:
                model.forms = model.forms.changed(name, LowRankForm(rank=len(factors.first)))
                _fill(put(model, name, LowRankForm(rank=len(factors.first))), factors)
                before, after, count = before + size, after + len(factors.first) * ends, count + 1
        if not count:
            raise ConfigError(
                f'step "{self}": none of {len(names)} linear layers is smaller as a product of two at that rank; '
                "keep less, or prune in its place"
            )
        work.say(f"{count} of {len(names)} linear layers are products of two: {before:,} -> {after:,} weights")
        notes = [f"low_rank: {len(names) - count} of {len(names)} linear layers stay whole, a product is not smaller"]
        return replace(work, model=model, notes=(*work.notes, *(notes if count < len(names) else [])))

    def _chosen(self, name: str) -> bool:
        return bool(name) and (not self.only or any(fnmatchcase(name, pattern) for pattern in self.only))

    def _seen(self, work: Work, names: Sequence[str]) -> dict[str, "Moments"]:
        """By name the inputs of each layer that calibration rows reach; nothing of any by weights alone."""
        if self.by == "weights":
            return {}
        seen = moments(work, names, self.rows)
        if all(one.constant() for one in seen.values()):
            raise DataError(
                f"{work.train.source}: the calibration rows are all alike to the model, so they say nothing of what "
                "its layers read; give --data a table of different rows, or factorize by=weights"
            )
        return seen

    def _factors(self, layer: nn.Linear, seen: "Moments | None", most: int) -> Factors | None:
        """None where the rank that is asked for is more than `most`."""
        if seen is None and self.by == "rows":
            return None  # no row reaches it: nothing is known of its inputs
        if self.rank is not None:
            rank = max(1, round(self.rank * min(layer.in_features, layer.out_features)))
            return factorize(layer, seen, rank=rank) if rank <= most else None
        factors = factorize(layer, seen, energy=self.energy)
        return factors if len(factors.first) <= most else None


class Moments:
    """Mean and covariance of what goes into a layer, summed around the first batch's mean, so that nothing cancels."""

    def __init__(self) -> None:
        self.count = 0
        self._around: Tensor | None = None
        self._sum: Tensor = torch.zeros(())
        self._products: Tensor = torch.zeros(())

    def add(self, tokens: Tensor) -> None:
        """Tokens (T, I), of which at most `MOST_TOKENS` are looked at."""
        some = tokens[:: -(-len(tokens) // MOST_TOKENS)].float().cpu()
        if self._around is None:
            self._around = some.mean(0)
        off = some - self._around
        self.count += len(off)
        self._sum = self._sum + off.sum(0).double()
        self._products = self._products + (off.T @ off).double()

    def mean(self) -> Tensor:
        """(I,)"""
        assert self._around is not None
        return self._around.double() + self._sum / self.count

    def covariance(self) -> Tensor:
        """(I, I)"""
        off = self._sum / self.count
        return self._products / self.count - off.outer(off)

    def second(self) -> Tensor:
        """(I, I), the mean of x xᵀ."""
        return self.covariance() + self.mean().outer(self.mean())

    def constant(self) -> bool:
        """Was it always the same, up to rounding?"""
        return bool(self.covariance().diagonal().sum() <= 1e-10 * self.second().diagonal().sum())


@torch.no_grad()
def moments(work: Work, names: Sequence[str], rows: int) -> dict[str, Moments]:
    """By name what the calibration rows put into each of these layers; without those that they do not reach."""
    model = work.model
    found = {name: Moments() for name in names}

    def watch(name: str) -> Any:
        def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found[name].add(given[0].flatten(0, -2))

        return linear(model, name).register_forward_pre_hook(look)

    hooks = [watch(name) for name in names]
    try:
        for _ in passes(work, model, rows):
            pass
    finally:
        for hook in hooks:
            hook.remove()
    return {name: one for name, one in found.items() if one.count}


@torch.no_grad()
def factorize(
    layer: nn.Linear, seen: Moments | None = None, *, rank: int | None = None, energy: float | None = None
) -> Factors:
    """The best product of that rank, or of the least rank that keeps the energy.

    Args:
        seen: the layer's inputs; None: all directions count alike.
        energy: share of the squared singular values of W L that is kept, 0 to 1.
    """
    weight = layer.weight.double().cpu()
    if seen is None:
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        spread = seen.second() if layer.bias is None else seen.covariance()
        damping = (DAMPING * spread.diagonal().mean()).clamp(min=1e-12)
        lower = torch.linalg.cholesky(spread + damping * torch.eye(len(spread), dtype=torch.float64))
        left, sizes, right = torch.linalg.svd(weight @ lower, full_matrices=False)
        right = torch.linalg.solve_triangular(lower, right, upper=False, left=False)  # right L⁻¹
    shares = (sizes**2).cumsum(0) / (sizes**2).sum().clamp(min=1e-300)
    if rank is None:
        assert energy is not None
        rank = min(int((shares < energy).sum()) + 1, len(sizes))
    root = sizes[:rank].sqrt()
    first, second = root[:, None] * right[:rank], left[:, :rank] * root
    bias = None if layer.bias is None else layer.bias.double().cpu()
    if bias is not None and seen is not None:
        bias = bias + (weight - second @ first) @ seen.mean()
    return Factors(first, second, bias, float(shares[rank - 1]))


@torch.no_grad()
def _fill(layer: nn.Module | None, factors: Factors) -> None:
    assert isinstance(layer, LowRankLinear)
    layer.first.weight.copy_(factors.first)
    layer.second.weight.copy_(factors.second)
    if factors.bias is not None:
        layer.second.bias.copy_(factors.bias)
