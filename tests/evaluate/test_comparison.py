"""`compare` on written tables, with models so small and steps so few that only what is asserted is learned."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.errors import ArtifactError, ConfigError, TrainError
from polymodal.evaluate.baseline import constant, repeated
from polymodal.evaluate.comparison import compare, plan, usual_seconds
from polymodal.evaluate.entries import Budget, Comparison, Entry
from polymodal.features import Target
from polymodal.metrics.supervised import report
from polymodal.train import run as runs
from tests.train.multimodal import tables

TINY = [
    *tables.TWO_RECORDS,
    *(f"model.encoders.{name}={{kind: record_mlp, numbers: 1, width: 8, layers: 1}}" for name in ("left", "right")),
]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runs, "draw_curve", lambda log, picture: None)
    monkeypatch.chdir(tmp_path)
    tables.xor(tmp_path / "xor.csv", 80)


def tiny_compare(fusions: Sequence[str], **options: Any) -> Comparison:
    usual: dict[str, Any] = {"steps": 2, "overrides": TINY, "out": "out"}
    return compare("xor.csv", "y", fusions, **(usual | options))


def by_name(done: Comparison) -> dict[str, Entry]:
    return {entry.name: entry for entry in done.entries}


def noted(monkeypatch: pytest.MonkeyPatch, carry_out: Callable[..., Any]) -> list[str]:
    """Names of what is trained from here on, by `carry_out`."""
    trained: list[str] = []

    def noting(job: Any, out: Any = None) -> Any:
        trained.append(job.recipe.name)
        return carry_out(job, out)

    monkeypatch.setattr(runs, "carry_out", noting)
    return trained


def test_every_model_is_measured_alike_and_kept() -> None:
    done = tiny_compare(["late", "spatial", "concat"])
    entries = by_name(done)
    assert set(entries) == {"late", "concat", "spatial", "left alone", "right alone", "no input"}
    scores = [entry.score for entry in done.entries if entry.score is not None]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 5
    assert done.entries[-1].name == "spatial"
    assert entries["spatial"].status == "not possible"
    assert entries["spatial"].reason == 'fusion "spatial" lays pictures on one grid; no picture: left, right'
    best_single = max(("left alone", "right alone"), key=lambda name: entries[name].score or 0)
    for name in ("late", "concat", "left alone", "right alone"):
        entry = entries[name]
        assert (entry.steps, entry.reports["y"]["rows"]) == (2, 12)
        assert entry.seconds > 0
        assert entry.samples_per_s > 0
        assert entry.interval is not None
        assert entry.interval[0] <= (entry.score or 0) <= entry.interval[1]
        assert (entry.difference is None) == (name == best_single)
        assert (done.folder / str(entry.run) / "artifact" / "model.safetensors").is_file()
    late, single = entries["late"], entries[best_single]
    assert late.difference is not None
    assert late.difference[0] == pytest.approx((late.score or 0) - (single.score or 0))
    assert entries["no input"].score == 0.5
    assert done.best is not None
    written = json.loads((done.folder / "compare.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(done.to_dict()))
    assert written["best"]["run"] == f"out/{done.best.run}"


def test_all_have_the_same_first_weights_rows_and_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[dict[str, torch.Tensor], Any]] = {}
    carry_out = runs.carry_out

    def watched(job: Any, out: Any = None) -> Any:
        weights = {name: value.clone() for name, value in job.prepared.model.encoders.state_dict().items()}
        seen[job.recipe.name] = (weights, (job.state()["rows"], job.recipe.trainer.seed, job.total_steps))
        return carry_out(job, out)

    monkeypatch.setattr(runs, "carry_out", watched)
    tiny_compare(["late", "concat"])
    assert seen.keys() == {"left alone", "right alone", "late", "concat"}
    for name, (weights, common) in seen.items():
        assert common == seen["late"][1], name
        for key, value in weights.items():
            if key.startswith("left"):
                assert torch.equal(value, seen["late"][0][key]), (name, key)


def test_a_run_of_it_is_what_fit_makes_of_its_recipe() -> None:
    done = tiny_compare(["concat"])
    again = runs.fit(str(done.folder / "concat" / "recipe.yaml"), out="again")
    ours, theirs = (
        (folder / "artifact" / "model.safetensors").read_bytes() for folder in (done.folder / "concat", again.folder)
    )
    assert ours == theirs


def test_a_model_that_fails_is_a_row_with_its_reason_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = runs.carry_out

    def failing(job: Any, out: Any = None) -> Any:
        if job.recipe.name == "late":
            raise TrainError("out of memory; the first of these that is acceptable: ...")
        return carry_out(job, out)

    monkeypatch.setattr(runs, "carry_out", failing)
    late = by_name(tiny_compare(["late", "concat"]))["late"]
    assert (late.status, late.score, late.run) == ("failed", None, None)
    assert late.reason.startswith("out of memory")
    trained = noted(monkeypatch, carry_out)
    entries = by_name(tiny_compare(["late", "concat"]))
    assert trained == ["late"]
    assert {entry.status for entry in entries.values()} == {"done"}


def test_ctrl_c_keeps_what_is_finished_and_the_same_folder_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = runs.carry_out

    def stopped(job: Any, out: Any = None) -> Any:
        if job.recipe.name == "late":
            Path(out).mkdir()
            (Path(out) / "half.txt").write_text("written until then")
            raise KeyboardInterrupt
        return carry_out(job, out)

    monkeypatch.setattr(runs, "carry_out", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"finished models are kept \(2\)\. Go on with .* --out out"):
        tiny_compare(["late", "concat"])
    assert (Path("out") / "compare.html").is_file()
    before = {one["name"]: one for one in json.loads(Path("out/compare.json").read_text("utf-8"))["models"]}
    assert before["late"]["status"] == before["concat"]["status"] == "not yet"
    trained = noted(monkeypatch, carry_out)
    after = by_name(tiny_compare(["late", "concat", "tensor"]))  # one more may be asked for
    assert trained == ["late", "concat", "tensor"]
    assert not Path("out/late/half.txt").exists()
    for name in ("left alone", "right alone"):
        assert after[name].to_dict() == Entry.parse(before[name], "before").to_dict() | {
            "difference": after[name].to_dict()["difference"]
        }
    assert {entry.status for entry in after.values()} == {"done"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, r'"out" holds a comparison with another budget \(then .*2.*, now .*3.*\).*choose another --out'),
        ({"overrides": [*TINY, "trainer.lr=0.01"]}, r'"out" holds a comparison with another overrides'),
    ],
)
def test_another_comparison_does_not_go_on_in_its_folder(options: dict[str, Any], message: str) -> None:
    Path("out").mkdir()
    settings = plan("xor.csv", "y", ["late"], Budget(steps=2), TINY).settings
    Path("out/compare.json").write_text(json.dumps({"settings": settings, "models": []}), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        tiny_compare(["late"], **options)


def test_a_table_with_other_rows_does_not_go_on() -> None:
    Path("out").mkdir()
    settings = plan("xor.csv", "y", ["late"], Budget(steps=2), TINY).settings
    Path("out/compare.json").write_text(json.dumps({"settings": settings, "models": []}), encoding="utf-8")
    tables.xor(Path("xor.csv"), 84)
    with pytest.raises(ConfigError, match='"out" holds a comparison with other rows, which cannot stand in one table'):
        tiny_compare(["late"])


def test_a_folder_of_something_else_is_not_touched() -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match='"out" is not empty and holds no comparison: choose another --out'):
        tiny_compare(["late"])
    Path("out/compare.json").write_text("{")
    with pytest.raises(ArtifactError, match=r'"out/compare\.json" cannot be read .*choose another --out'):
        tiny_compare(["late"])
    assert Path("out/mine.txt").read_text() == "mine"


def test_several_targets_and_a_chinese_page() -> None:
    file = tables.write(
        Path("房.csv"),
        面积=[40.0 + 3 * row for row in range(60)],
        朝向=["南" if row % 3 else "北" for row in range(60)],
        价格=[100.0 + 7 * row for row in range(60)],
        等级=["甲" if row % 2 else "乙" for row in range(60)],
    )
    inputs = ["data.inputs.数={kind: record, columns: [面积]}", "data.inputs.类={kind: record, columns: [朝向]}"]
    done = compare(file, ["价格", "等级"], ["late"], steps=2, overrides=inputs, out="out", lang="zh")
    late = by_name(done)["late"]
    assert late.score == pytest.approx((late.reports["价格"]["r2"] + late.reports["等级"]["auroc"]) / 2)
    assert "数 alone" in by_name(done)
    page = (done.folder / "compare.html").read_text("utf-8")
    assert '<html lang="zh">' in page
    assert "价格 (r2), 等级 (auroc)" in page
    assert (done.folder / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fusions", "overrides", "message"),
    [
        (["late", "erly"], TINY, r'no fusion is named "erly"; did you mean "early"\?'),
        (["spatial"], TINY, r"none of these fusions is possible; these are: late, concat.*\n  fusion .spatial. lays"),
        (["late"], [], r"wanted a table with at least 2 inputs, got one, record \(left, right\).*`polymodal fit`"),
        (["late"], [*TINY, "model.fusion.kind=early"], r"model\.fusion\.kind cannot be set.*name fusions by --fusion"),
        (["late"], [*TINY, "trainer.steps=4"], r"trainer\.steps cannot be set.*set --steps"),
        (
            ["late"],
            [*TINY, "data.test_fraction=0", "data.val_fraction=0"],
            r"no rows are held out.*data\.test_fraction",
        ),
        (["late"], [*TINY, "trainer.lrr=1"], r'unknown key "trainer\.lrr"; did you mean "lr"\?'),
    ],
)
def test_what_is_asked_wrongly_is_said(fusions: list[str], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan("xor.csv", "y", fusions, Budget(steps=1), overrides)


def test_one_budget_only() -> None:
    with pytest.raises(ConfigError, match="wanted one of seconds, steps and epochs, got 2 s, 3 epochs"):
        compare("xor.csv", "y", seconds=2.0, epochs=3)
    assert [usual_seconds(rows) for rows in (100, 3000, 10**6)] == [20, 60, 300]


def test_a_time_is_filled_by_as_many_steps_as_fit() -> None:
    planned = plan("xor.csv", "y", ["late", "spatial"], Budget(seconds=1.0), TINY).timed()
    late = next(one for one in planned if one.name == "late")
    assert 0 < late.seconds <= 1.0
    assert late.steps > 1
    assert next(one for one in planned if one.name == "spatial").reason.startswith('fusion "spatial"')
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("target", "labels", "metric", "value"),
    [
        (Target(columns=("y",), task="binary", classes=("n", "y")), torch.tensor([1.0, 1, 1, 0]), "accuracy", 0.75),
        (Target(columns=("y",), task="multiclass", classes=tuple("abc")), torch.tensor([2, 2, 0, 2]), "accuracy", 0.75),
        (Target(columns=("y",), task="regression"), torch.tensor([1.0, 2, 3, 6]), "mae", 1.5),
        (Target(columns=("y",), task="ordinal", classes=tuple("abc")), torch.tensor([0, 1, 1, 2]), "accuracy", 0.5),
        (Target(columns=("y",), task="soft", classes=tuple("ab")), torch.tensor([[1.0, 0.3]] * 2), "vqa_accuracy", 1.0),
        (Target(columns=("y",), task="tokens", classes=("O", "N")), torch.tensor([[0, 1], [0, 0]]), "accuracy", 0.75),
    ],
)
def test_the_answer_without_input_is_the_best_constant(
    target: Target, labels: torch.Tensor, metric: str, value: float
) -> None:
    known = torch.ones(labels.shape[: 2 if target.task == "tokens" else 1], dtype=torch.bool)
    outputs = repeated(constant(target, labels, known), labels, target)
    assert report(target.task, outputs, labels, known, target.classes)[metric] == pytest.approx(value)


@pytest.mark.slow
def test_where_no_input_says_anything_alone_only_fusions_in_which_they_meet_can_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """XOR. The logit of an average is a sum over inputs, whose AUROC on four equal corners is ½ whatever they say."""
    table = tables.xor(tmp_path / "more.csv", 800)
    meeting = ["concat", "early", "hybrid", "tensor", "low_rank", "gated", "film"]
    asking = ["cross_attention", "coattention", "crossmodal", "bottleneck", "mult"]
    fusions = ["late", *meeting, *asking]
    overrides = [*tables.TWO_RECORDS, "trainer.val_every=120"]
    entries = by_name(compare(table, "y", fusions, steps=120, overrides=overrides, out="out"))
    for name in ("late", "left alone", "right alone"):
        assert 0.35 < (entries[name].score or 0) < 0.65, name
        assert entries[name].reports["y"]["accuracy"] < 0.8, name
    for name in fusions[1:]:
        assert entries[name].reports["y"]["accuracy"] >= 0.99, name
        low = (entries[name].difference or (0, 0, 0))[1]
        assert low > 0.3, name
