"""Quantization-aware fine-tuning: linear layers go through integers while they learn, and so learn to bear it.

Forward, weights and activations are rounded as `layers/compressed.Int8Linear` rounds them; backward, rounding counts as
the identity (the straight-through estimator: Bengio et al. 2013, arXiv:1308.3432; for whole networks Jacob et al. 2018,
arXiv:1712.05877, section 3). What is learned is to say what the model said before: no labels are needed, and any kind
of model can do it.

The loop is our own: the teacher is the model itself, nothing is validated, resumed or logged, and it lasts minutes;
Lightning's module, data module and callbacks for it would take more lines than it has.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, linear

from polymodal.artifact import Model
from polymodal.compress.calibration import batches, run
from polymodal.compress.quantize import (
    Integers,
    linears_of,
    multiply_integers,
    refuse_quantized,
    store_integers,
)
from polymodal.compress.sensitive import Unit, within_bound
from polymodal.compress.step import Work
from polymodal.errors import ConfigError, TrainError
from polymodal.layers.compressed import WEIGHT_LIMIT, quantized_input
from polymodal.models.forms import IntegerStorage
from polymodal.types import Batch, ImageTextBatch


class Qat(Integers):
    kind: Literal["qat"] = "qat"
    learns: ClassVar[bool] = True
    epochs: int = Field(1, ge=1)
    lr: float = Field(2e-5, gt=0)  # of AdamW at its start; it falls to zero along a cosine

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model is quantized already, or the bound on the loss cannot be kept.
            ConfigError: there is no linear layer to quantize.
            TrainError: the loss is not finite.
        """
        refuse_quantized(work)
        model = work.copy()
        names = self.chosen(model)
        linears = linears_of(model, names)
        if not linears:
            raise ConfigError('step "qat": the model has no linear layer that could learn to bear integers; take int8')
        for name in linears:
            _replace(model, name, RoundingLinear(_linear(model, name)))
        first, last = self._learn(work, model)
        for name in linears:
            _replace(model, name, _plain(model.get_submodule(name)))
        model.requires_grad_(True)
        multiplied = {f"{name}.weight" for name in linears}
        units = [Unit(name, partial(multiply_integers, name, None)) for name in linears]
        stored = [name for name in names if name not in multiplied]
        units += [Unit(name, partial(store_integers, name, IntegerStorage(bits=8))) for name in stored]
        model, spared = within_bound(work, model, units, self.rows)
        learned = f"qat: what integers change (1 - cosine, or share of variance): {first:.2g} before, {last:.2g} after"
        return replace(work, model=model, notes=(*work.notes, learned, *spared))

    def _learn(self, work: Work, model: Model) -> tuple[float, float]:
        """Teach the model, in place; the mean loss of the first and the last tenth of the steps."""
        model.requires_grad_(False)
        layers = [layer for layer in model.modules() if isinstance(layer, RoundingLinear)]
        weights = [weight for layer in layers for weight in layer.parameters()]
        for weight in weights:
            weight.requires_grad_(True)
        optimizer = torch.optim.AdamW(weights, lr=self.lr, weight_decay=0.0)
        given = list(self._batches(work))
        losses = []
        for step, batch in enumerate(given):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * step / len(given)))
            loss = apart(work, model, batch)
            if not bool(torch.isfinite(loss)):
                raise TrainError(f"qat: the loss is not finite at step {step + 1} of {len(given)}; set a lower lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        some = max(1, len(losses) // 10)
        return sum(losses[:some]) / some, sum(losses[-some:]) / some

    def _batches(self, work: Work) -> Iterator[ImageTextBatch | Batch]:
        for epoch in range(self.epochs):
            yield from batches(replace(work, seed=work.seed + epoch), len(work.train))


def apart(work: Work, model: Model, batch: ImageTextBatch | Batch) -> Tensor:
    """How far the model is from the work's, (): of vectors the mean of 1 - cosine, of predictions the mean squared
    difference over the variance; the sum over both sides, or all targets."""
    with torch.no_grad():
        wanted = run(work, work.model, batch)
    said = run(work, model, batch)
    parts = []
    for name, goal in wanted.items():
        if isinstance(batch, ImageTextBatch):
            parts.append((1 - cosine_similarity(said[name], goal, dim=-1)).mean())
        else:
            parts.append((said[name] - goal).square().mean() / goal.var().clamp(min=1e-6))
    return torch.stack(parts).sum()


class RoundingLinear(nn.Linear):
    """A linear layer that says what `Int8Linear.of` it would say, and learns as if nothing were rounded."""

    def __init__(self, base: nn.Linear) -> None:
        # On meta: the weights are the given layer's own, nothing is drawn or copied.
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        return linear(_through(x, rounded_input(x)), _through(self.weight, rounded_weight(self.weight)), self.bias)


@torch.no_grad()
def rounded_input(x: Tensor) -> Tensor:
    """What is left of activations (..., I) in 8 bits, token by token."""
    quantized, scale, zero = quantized_input(x)
    return scale * (quantized - zero)


@torch.no_grad()
def rounded_weight(weight: Tensor) -> Tensor:
    """What is left of weights (O, I) in 7 bits, by output channel."""
    scale = (weight.abs().amax(1, keepdim=True) / WEIGHT_LIMIT).clamp(min=torch.finfo(torch.float32).tiny)
    return scale * (weight / scale).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)


def _through(exact: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values with the gradient of the exact ones."""
    return exact + (rounded - exact).detach()


def _plain(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, RoundingLinear)
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain.train(layer.training)


def _linear(model: Model, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _replace(model: Model, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
