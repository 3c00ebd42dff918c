"""What every training has, in the form that Lightning asks for; `ClipTraining`, `MultimodalTraining` add the rest."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from polymodal.errors import TrainError
from polymodal.train.optimizer import adamw, param_groups, rest_frozen, schedule
from polymodal.train.recipe import TrainerConfig


class Training(LightningModule):
    """A model and its trainer's settings.

    Attributes:
        shown: what the last step has to show, tensors without a graph.
        measured: what the last validation found: loss, and the metrics that one may watch.
        report: the same in full.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, config: TrainerConfig, total_steps: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.total_steps = total_steps
        self.shown: dict[str, Tensor] = {}
        self.lr = 0.0  # of the last step, the highest of all groups
        self.measured: dict[str, float] = {}
        self.report: dict[str, Any] = {}

    def configure_optimizers(self) -> Any:
        config = self.config
        groups = param_groups(
            self.model,
            lr=config.lr,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
            lr_scale=config.lr_scale,
        )
        if own := self.weights_of_objectives():
            groups.append({"params": own, "lr": config.lr, "weight_decay": 0.0})
        optimizer = adamw(groups, config.betas, config.eps)
        factor = schedule(config.schedule, config.warmup_steps(self.total_steps), self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def weights_of_objectives(self) -> list[nn.Parameter]:
        """What is learned besides the model: weights of losses, say."""
        return []

    def train(self, mode: bool = True) -> "Training":
        super().train(mode)
        rest_frozen(self.model)
        return self

    def on_train_start(self) -> None:
        self.train()  # a model that was loaded is in eval mode, and Lightning leaves it there
        # The rate of a checkpoint is that of its own schedule; a run that was made longer has another.
        scheduler: Any = self.lr_schedulers()
        for group, rate, factor in zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(scheduler.last_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.seed_of_step())

    def seed_of_step(self) -> int:
        """63 bits from (seed, step, process).

        Whatever is drawn in a step (dropout, masks) is drawn from it: a run that was stopped goes on with the very
        same numbers, and no generator's state needs to be kept.
        """
        key = np.random.SeedSequence([self.config.seed, self.global_step, self.global_rank])
        return int(key.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def configure_gradient_clipping(self, *args: Any, **options: Any) -> None:
        # Not Lightning's own: with a fused optimizer it refuses to clip under autocast.
        if self.config.clip_norm is not None:
            weights = [weight for weight in self.parameters() if weight.grad is not None]
            self.shown["grad_norm"] = clip_grad_norm_(weights, self.config.clip_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["validation"] = {"mean": self.measured, **self.report} if self.measured else {}

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        self.lr = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        super().optimizer_step(*args, **options)

    def finite(self, loss: Tensor, rows: Callable[[], list[int]]) -> Tensor:
        """The loss itself.

        Args:
            rows: numbers of the rows that the step has seen.

        Raises:
            TrainError: it is infinite or not a number.
        """
        if torch.isfinite(loss):
            return loss
        seen = rows()
        listed = ", ".join(map(str, seen[:8])) + (f" and {len(seen) - 8} more" if len(seen) > 8 else "")
        weights = [name for name, weight in self.model.named_parameters() if not torch.isfinite(weight).all()]
        where = f"the weights had already gone bad (first: {weights[0]})" if weights else "the weights are still finite"
        raise TrainError(
            f"step {self.global_step}: the loss is {loss.item()}, {where}; rows of this step: {listed}. Lower "
            f"trainer.lr (now {self.config.lr:g}), lengthen trainer.warmup (now {self.config.warmup:g}), or set "
            f"trainer.precision=fp32 (now {self.config.precision})"
        )
