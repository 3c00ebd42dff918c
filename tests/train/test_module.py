"""The training step by itself."""

import pytest
import torch

from polymodal.objectives import HardNegativeConfig, InfoNceConfig, belongs, info_nce
from polymodal.train.batches import PairBatch
from polymodal.train.build import choose_trained
from polymodal.train.module import ClipTraining
from polymodal.train.recipe import TrainerConfig
from tests import tiny


def training() -> ClipTraining:
    return ClipTraining(tiny.clip(), [InfoNceConfig().build()], TrainerConfig(), tiny.preprocess().image, total_steps=1)


def test_what_belongs_together_is_not_pushed_apart() -> None:
    pictures, captions = torch.tensor([5, 5, 7, 8]), torch.tensor([1, 2, 2, 3])
    module = training()
    loss = module.training_step(PairBatch(tiny.image_text_batch(4), pictures, captions), 0)
    out = module.model(tiny.preprocess().image.normalize(tiny.pixels(4)), tiny.text(4))
    masked = info_nce(out.image, out.text, out.scale, belongs(pictures, captions))
    assert loss.item() == pytest.approx(masked.item(), rel=1e-6)
    assert loss.item() != pytest.approx(info_nce(out.image, out.text, out.scale).item(), rel=1e-3)


def test_weights_that_no_objective_reads_are_not_trained() -> None:
    model = tiny.clip(bias=-10.0)
    choose_trained(model, [HardNegativeConfig().build()], TrainerConfig())
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == ["log_scale", "bias"]
