"""`profile`: parts that add up, and FLOPs and weights counted by hand."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import DataLoader

from polymodal.errors import ConfigError, DataError
from polymodal.train import profile as profiles
from polymodal.train import run
from polymodal.train.profile import PARTS, WARM_UP, Clock, Profile, Watch, Weights, parameters_by_part, part_of, profile
from tests import tiny
from tests.train import toy
from tests.train.multimodal import table as rows_table

pytestmark = pytest.mark.usefixtures("short_limit")


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "LIMIT_SIDE", 64)
    monkeypatch.setattr(profiles, "LIMIT_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says when it is asked; seconds are added by hand."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_every_moment_belongs_to_the_innermost_part(clock: list[float]) -> None:
    timed = Clock()

    def lasts(seconds: float, action: str, *inner: Any) -> None:
        timed.start(action)
        for one in inner:
            one()
        clock[0] += seconds
        timed.stop(action)

    for _ in range(2):
        clock[0] += 1  # between actions
        lasts(2, "[_TrainingEpochLoop].train_dataloader_next")
        lasts(4, "[Callback]Log.on_train_batch_start")
        lasts(
            8,
            "run_training_batch",
            lambda: lasts(
                16,
                "[LightningModule]ClipTraining.optimizer_step",
                lambda: lasts(32, "[Strategy]SingleDeviceStrategy.training_step"),
                lambda: lasts(
                    64,
                    "[Strategy]SingleDeviceStrategy.backward",
                    lambda: lasts(128, "[Callback]Ema.on_after_backward"),
                    lambda: lasts(256, "[LightningModule]ClipTraining.on_after_backward"),
                ),
            ),
        )
        lasts(512, "[LightningModule]ClipTraining.on_train_batch_end")
    clock[0] += 1000  # after the last step
    step = {"lightning": 1 + 8 + 512, "data": 2, "callbacks": 4 + 128, "optimizer": 16, "forward": 32, "backward": 320}
    assert timed.steps == [step, step]


def test_actions_that_no_part_knows_are_of_what_is_around_them() -> None:
    assert part_of("run_training_epoch") is None
    assert part_of("[LightningModule]ClipTraining.on_before_batch_transfer") == "data"
    assert part_of("[LightningModule]ClipTraining.optimizer_step") == "optimizer"


class Linear(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_flops_of_a_linear_layer_are_those_of_the_hand_count(tmp_path: Path) -> None:
    timed = Clock()
    watch = Watch(timed, warm_up=2, steps=3)
    rows = 5
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[watch], profiler=timed, enable_model_summary=False,
        default_root_dir=tmp_path, log_every_n_steps=1, **options,
    )  # fmt: skip
    batches: Any = DataLoader(torch.randn(rows * 50, 8), batch_size=rows)  # type: ignore[arg-type]
    with run._quiet():
        trainer.fit(Linear(), batches)
    forward = weights = 2 * rows * 8 * 4  # the data needs no gradient
    assert watch.flops == forward + weights
    assert len(timed.steps) == trainer.global_step == 2 + 3 + 1


def test_attention_on_a_cpu_is_counted() -> None:
    query, key, value = (torch.randn(2, 3, length, 16, requires_grad=True) for length in (5, 7, 7))
    products = 2 * 2 * 3 * 5 * 7 * 16  # FLOPs of one: of scores, and of weights with values
    with profiles.flop_counter() as counter:
        attended = scaled_dot_product_attention(query, key, value)
    assert counter.get_total_flops() == 2 * products
    with profiles.flop_counter() as counter:
        attended.sum().backward()
    assert counter.get_total_flops() == 5 * products  # the scores again, and two gradients of each product


def test_weights_are_counted_by_part_and_a_shared_one_once() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Module()
    model.encoders = nn.ModuleDict({"photo": nn.Linear(3, 4), "notes": nn.Sequential(shared, nn.Linear(4, 2))})
    model.fusion = nn.Sequential(shared, nn.Linear(4, 1, bias=False))
    model.scale = nn.Parameter(torch.zeros(()))
    model.empty = nn.Identity()
    model.get_submodule("fusion").requires_grad_(False)
    assert parameters_by_part(model) == {
        "encoders.photo": Weights(16, 16),
        "encoders.notes": Weights(30, 10),
        "fusion": Weights(4, 0),
        "rest": Weights(1, 1),
    }


def test_weights_of_a_clip_add_up() -> None:
    model = tiny.clip()
    found = parameters_by_part(model)
    assert {"image_encoder", "text_encoder", "rest"} <= found.keys()
    assert sum(part.total for part in found.values()) == sum(weight.numel() for weight in model.parameters())


def check(found: Profile, steps: int) -> None:
    """What holds for every recipe."""
    assert found.steps == steps
    assert tuple(found.parts) == PARTS
    assert sum(part.seconds for part in found.parts.values()) == pytest.approx(found.step_seconds)
    assert sum(part.share for part in found.parts.values()) == pytest.approx(1)
    assert all(part.seconds > 0 for part in found.parts.values())
    assert found.spread[0] <= found.spread[1]
    assert found.samples_per_s == pytest.approx(found.batch_size / found.step_seconds)
    assert found.share_of_limit == pytest.approx(found.flops / found.step_seconds / found.limit)
    assert found.model_share_of_limit > found.share_of_limit > 0
    assert sum(part.total for part in found.parameters.values()) == sum(found.plan["parameters"].values())
    assert sum(part.trained for part in found.parameters.values()) == found.plan["parameters"]["trained"]
    assert found.memory > 2**20
    assert json.loads(json.dumps(found.to_dict()))["parts"]["data"].keys() == {"seconds", "share"}


def test_a_recipe_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    table = toy.table(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    found = profile(toy.recipe(table), steps=5, overrides=["trainer.early_stopping={patience: 1}"])
    check(found, 5)
    assert found.batch_size == 8
    left = {path.relative_to(tmp_path).parts[0] for path in {*tmp_path.rglob("*")} - {*before}}
    assert left <= {"cache"}
    linear = found.parameters["image_projection"]
    assert linear == Weights(16 * 8, 16 * 8)


def test_a_recipe_of_several_inputs_whose_run_would_be_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    recipe = rows_table.recipe(rows_table.write(tmp_path / "data"), steps=2)
    found = profile(recipe, steps=3)
    check(found, 3)
    assert found.plan["steps"] == WARM_UP + 3 + 1
    assert {"encoders.image", "encoders.text", "fusion"} <= found.parameters.keys()


def test_what_it_cannot_look_at_is_refused(tmp_path: Path) -> None:
    table = toy.table(tmp_path / "data", count=20)
    with pytest.raises(ConfigError, match="profile: steps must be at least 1, got 0"):
        profile(toy.recipe(table), steps=0)
    with pytest.raises(ConfigError, match=r"looks at one process, got trainer\.devices=2; add trainer\.devices=1"):
        profile(toy.recipe(table, devices=2), steps=1)
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        profile(toy.recipe(tmp_path / "nowhere.csv"), steps=1)


def test_the_limit_is_the_best_of_three_products_at_least(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.0, 0.5, 1.0, 1.25, 2.0, 2.5, 3.0])  # end; then start and end of each, and none for the limit
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert profiles.matmul_limit(torch.device("cpu"), torch.float32, seconds=0.0) == 2 * 64**3 / 0.25
