"""The training step and the validation of a model with several inputs, in the form that Lightning asks for."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, did_you_mean
from polymodal.features import Features
from polymodal.metrics.supervised import MAIN_METRIC, report
from polymodal.models.multimodal import Multimodal
from polymodal.objectives.joint_step import Joint, JointStep
from polymodal.train.distributed import gather, gather_lists
from polymodal.train.multimodal.recipe import MultimodalTrainer
from polymodal.train.training import Training
from polymodal.types import Batch


class MultimodalTraining(Training):
    """A model, its objectives and its trainer's settings.

    `measured` has loss, score (the mean of the targets' main metrics, where there are targets), every metric as
    "target/metric", and what the objectives log; `report` has each target's metrics in full.
    """

    model: Multimodal
    config: MultimodalTrainer

    def __init__(
        self,
        model: Multimodal,
        objectives: Joint,
        config: MultimodalTrainer,
        features: Features,
        total_steps: int,
    ) -> None:
        super().__init__(model, config, total_steps)
        self.objectives = objectives
        self.features = features
        self._seen: list[tuple[dict[str, Tensor], Batch]] = []  # of a validation: predictions and their batch
        self._losses: list[tuple[int, dict[str, Tensor]]] = []

    def weights_of_objectives(self) -> list[nn.Parameter]:
        return [weight for weight in self.objectives.parameters() if weight.requires_grad]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, self.shown, _ = self._loss(batch, self.seed_of_step())
        return self.finite(loss, batch.rows.tolist)

    def _loss(self, batch: Batch, seed: int) -> tuple[Tensor, dict[str, Tensor], JointStep]:
        ready = batch._replace(inputs=self.features.normalize(batch.inputs))
        step = JointStep(self.model, ready, torch.Generator().manual_seed(seed))
        loss, shown = self.objectives(step)
        return loss, {"loss": loss.detach()} | shown, step

    # -----------------------------------------------------------------------------------------------------------------
    # Validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # The same masks and negatives in every validation, so that two of them can be compared.
        _, shown, step = self._loss(batch, batch_idx)
        self._losses.append((len(batch.rows), {name: value.detach().float().cpu() for name, value in shown.items()}))
        if self.features.targets:
            predictions = {name: step.clean.predictions[name].detach().float().cpu() for name in self.features.targets}
            self._seen.append((predictions, batch))

    def on_validation_epoch_end(self) -> None:
        rows = sum(count for count, _ in self._losses)
        means: dict[str, float] = {}
        for name in self._losses[0][1]:
            total = sum(count * shown[name] for count, shown in self._losses)
            means[name] = float(gather(torch.as_tensor(total / rows)[None]).mean())
        self.report = {"objectives": means}
        self._seen = gather_lists(self._seen)
        scores = {}
        for name, target in self.features.targets.items():
            found = self._measure(name)
            self.report[name] = found
            scores[name] = found.get(MAIN_METRIC[target.task])
        self._losses.clear()
        self._seen.clear()
        known = [score for score in scores.values() if score is not None]
        self.measured = {"loss": means["loss"]}
        if self.features.targets:
            self.measured["score"] = float(np.mean(known)) if known else float("nan")
        self.measured |= {
            f"{name}/{metric}": value
            for name in self.features.targets
            for metric, value in self.report[name].items()
            if isinstance(value, float)
        }
        self.measured |= {name: value for name, value in means.items() if name not in self.measured}
        self._check_watched()
        self.log_dict(self.measured, logger=False)  # for early stopping; the log has its own way

    def _check_watched(self) -> None:
        """
        Raises:
            ConfigError: `trainer.metric` is nothing that is measured.
        """
        metric = self.config.metric
        target, _, name = metric.rpartition("/")
        if name in self.report.get(target, {}):
            self.measured.setdefault(metric, float("nan"))  # not defined on these rows, as an AUROC of one class
        if metric not in self.measured:
            raise ConfigError(
                f'trainer.metric: "{metric}" is not measured{did_you_mean(metric, self.measured)}; there are: '
                f"{', '.join(self.measured)}"
            )

    def _measure(self, name: str) -> dict[str, Any]:
        """The target's metrics on what this validation has seen."""
        target = self.features.targets[name]
        outputs = [predictions[name] for predictions, _ in self._seen]
        values = [batch.targets[name].cpu() for _, batch in self._seen]
        known = [batch.known[name].cpu() for _, batch in self._seen]
        sentences = None
        if target.task == "tokens":  # sentences of different batches are padded to different lengths
            numbers = [batch.rows.cpu() for _, batch in self._seen]
            rows = [number[:, None].expand(value.shape) for number, value in zip(numbers, values, strict=True)]
            sentences = torch.cat([row.flatten() for row in rows])
            outputs = [output.flatten(0, 1) for output in outputs]
            values, known = [value.flatten() for value in values], [there.flatten() for there in known]
        return report(
            target.task,
            torch.cat(outputs),
            torch.cat(values),
            torch.cat(known),
            target.classes,
            std=target.std,
            sentences=sentences,
        )
