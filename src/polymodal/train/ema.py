"""The exponential moving average of the weights: it is what is validated and what the artifact holds."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn


class Ema(Callback):
    """After every step: average <- d * average + (1 - d) * weights, with d = min(decay, (1 + t) / (10 + t)).

    The warm-up keeps the random start of a young model out of its average. Frozen weights need no average and buffers
    (BatchNorm's running statistics) are averages already: both are taken as they are.

    Source: Polyak & Juditsky 1992; the warm-up is that of TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._set_aside: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, weight in _trained(pl_module).items():
            kept = self.average.get(name, weight)
            self.average[name] = kept.detach().to(weight.device, copy=True)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights = _trained(pl_module)
        torch._foreach_lerp_([self.average[name] for name in weights], list(weights.values()), 1 - keep)
        self.steps += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap_out(pl_module)

    @torch.no_grad()
    def swap_in(self, module: nn.Module) -> None:
        """Put the average in the place of the weights."""
        for name, weight in _trained(module).items():
            self._set_aside[name] = weight.clone()
            weight.copy_(self.average[name])

    @torch.no_grad()
    def swap_out(self, module: nn.Module) -> None:
        """Put the weights back, bit for bit."""
        for name, weight in _trained(module).items():
            weight.copy_(self._set_aside.pop(name))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": dict(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.average = state_dict["steps"], dict(state_dict["average"])


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.data for name, weight in module.named_parameters() if weight.requires_grad}
