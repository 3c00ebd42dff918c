from pathlib import Path

import pytest
import torch

from polymodal.train import run
from polymodal.train.multimodal import MultimodalRecipe, prepare_multimodal
from polymodal.train.multimodal.pace import Length, Pace, TimedJob
from tests.train.multimodal import tables


@pytest.mark.parametrize(
    ("pace", "length"),
    [
        (Pace(0.1, 0.0), Length(100, 10)),
        (Pace(0.1, 0.1), Length(90, 9)),  # 10 validations take a second
        (Pace(0.1, 2.0), Length(80, 80)),  # of 10 s at most 3 are for validations: one of 2 s
        (Pace(30.0, 0.0), Length(1, 1)),  # one step, however slow
    ],
)
def test_steps_and_validations_fit_into_the_time(pace: Pace, length: Length) -> None:
    found = pace.within(10.0)
    assert found == length
    assert pace.seconds(found) <= 10.0 or found.steps == 1


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TimedJob:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "draw_curve", lambda log, picture: None)
    table = tables.xor(tmp_path / "xor.csv", 80)
    data = {"table": str(table), "targets": ["y"]}
    recipe = MultimodalRecipe.parse({"data": data, "trainer": {"batch_size": 8}}, "toy")
    return TimedJob(prepare_multimodal(recipe, lambda message: None))


def test_timing_leaves_the_model_as_it_is_and_no_folder(
    job: TimedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = {name: value.clone() for name, value in job.prepared.model.state_dict().items()}
    pace = job.pace(0.01)
    assert pace.step > 0
    assert pace.validation > 0
    for name, value in job.prepared.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not list((tmp_path / "temporary").iterdir())
    assert job.stopwatch.steps == []


def test_a_training_made_so_long_is_timed_by_its_stopwatch(job: TimedJob, tmp_path: Path) -> None:
    longer = job.lasting(Length(7, 3))
    done = run.carry_out(longer, tmp_path / "run")
    assert done.steps == 7
    assert len(longer.stopwatch.steps) == 7
    assert longer.stopwatch.seconds >= sum(longer.stopwatch.steps) > 0
    recipe = MultimodalRecipe.parse(longer.recipe.to_dict(), "run")
    assert (recipe.trainer.steps, recipe.trainer.val_every) == (7, 3)  # what recipe.yaml says, so that it runs again
