"""Teachers of new models: any trained model teaches any recipe, and the run is as `fit` leaves one."""

from pathlib import Path

import pytest

import polymodal as pm
from polymodal.compress.distill import Teaching
from polymodal.compress.teach import teach
from polymodal.errors import ConfigError
from tests.cli.running import Run
from tests.cli.running import run as run
from tests.compress import homes, work
from tests.train import toy


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_recipe_of_pictures_and_texts_has_a_teacher_with_another_tokenizer(tmp_path: Path) -> None:
    table = work.pairs(tmp_path / "pairs")
    teacher = homes.clip(tmp_path / "teacher")
    done = teach(Teaching(teacher=(str(teacher),), hard=0), toy.recipe(table), out=tmp_path / "run")
    log = (done.folder / "log.jsonl").read_text("utf-8")
    assert "teacher_affinity" in log
    assert "teacher_embedding" in log
    assert done.metrics["validation"]["mean"]["R@10"] >= 0
    assert pm.load(done.folder).embed(texts=["a red square"]).shape == (1, 8)


def test_a_recipe_of_a_table_has_several_teachers_on_the_command_line(run: Run, tmp_path: Path) -> None:
    table = homes.table(tmp_path / "rows.csv")
    color = homes.features("color")
    teachers = [homes.saved(tmp_path / name, color, seed) for seed, name in enumerate("ab")]
    done = run("distill", table, "--target", "color", "--teacher", teachers[0], "--teacher", teachers[1], "--out",
               tmp_path / "run", "trainer.epochs=1", "data.leave=[price,defect,rooms,state]", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert done.json()["steps"] > 0
    assert "teacher_logits" in (tmp_path / "run" / "log.jsonl").read_text("utf-8")
    assert pm.load(tmp_path / "run").predict([{"area": 40, "city": "a"}]).predictions[0]["color"].value


def test_without_a_teacher_or_of_another_kind_it_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanted a teacher, got none"):
        teach(Teaching(), "clip-tiny", tmp_path / "pairs.csv")
    table, teacher = homes.table(tmp_path / "rows.csv"), homes.clip(tmp_path / "clip")
    done = run("distill", table, "--target", "color", "--teacher", teacher, "--out", tmp_path / "run")
    assert (done.code, "is not of the student's kind" in done.err) == (1, True)
    assert not (tmp_path / "run").exists()
    assert "polymodal distill clip-tiny --table pairs.csv --teacher" in run("distill", "--help").out
