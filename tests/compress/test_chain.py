import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal import artifact
from polymodal.compress import chain as chain_module
from polymodal.compress.chain import compress, parse_loss
from polymodal.compress.cost import Cost, flat, nested
from polymodal.compress.quantize import Int8
from polymodal.compress.report import Compressed
from polymodal.compress.step import Quality, Work
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, ConfigError, DataError
from tests import tiny
from tests.compress import homes
from tests.compress.models import moved
from tests.evaluate import small


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    model: Any = moved(tiny.clip())
    return artifact.save(
        tmp_path / "whole",
        model=model,
        tokenizer=tiny.tokenizer(),
        preprocess=tiny.preprocess(),
        metrics={"val": {"R@1": 0.5}},
        recipe={"name": "mine"},
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return small.table(tmp_path)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs without the process that measures them."""

    def cost(folder: Path, batch: object) -> Cost:
        size = sum(file.stat().st_size for file in folder.iterdir())
        return Cost(bytes=size, memory=2 * size, parameters=30_000, latency=0.01, throughput=200.0)

    monkeypatch.setattr(chain_module, "cost", cost)


def test_a_smaller_artifact_that_is_used_like_any_other(whole: Path, table: Path, tmp_path: Path) -> None:
    said: list[str] = []
    done = pm.compress(whole, "bf16,int8:activations=static", table, tmp_path / "small", split="all", say=said.append)
    assert isinstance(done, Compressed)
    assert said == ["step 1 of 2: bf16", "step 2 of 2: int8:activations=static"]
    assert [stage.step for stage in done.stages] == ["", "bf16", "int8:activations=static"]
    first, _, last = (stage.cost for stage in done.stages)
    assert last.bytes < first.bytes
    assert min(last.memory, last.latency, last.throughput) > 0
    assert first.parameters == sum(weight.numel() for weight in tiny.clip().state_dict().values())
    assert done.folder == tmp_path / "small"

    loaded = artifact.load(done.folder)
    assert loaded.metrics["before"] == {"val": {"R@1": 0.5}}
    assert loaded.metrics["compressed"]["R@1"] == done.stages[-1].quality.value
    assert json.loads((done.folder / "compression.json").read_text("utf-8")) == json.loads(json.dumps(done.data))
    assert (done.folder / "recipe.yaml").read_text() == "name: mine\n"
    assert "bf16,int8:activations=static" in (done.folder / "README.md").read_text()
    exact, found = (pm.load(folder, device="cpu").embed(texts=tiny.CAPTIONS[:3]) for folder in (whole, done.folder))
    assert (exact * found).sum(1).min() > 0.99
    report = pm.evaluate(done.folder, table, tasks=["retrieval"])
    assert (report.metrics["retrieval/image_to_text/R@1"] + report.metrics["retrieval/text_to_image/R@1"]) / 2 == (
        pytest.approx(done.stages[-1].quality.value)
    )
    assert sorted(path.name for path in tmp_path.glob(".*")) == []  # nothing is left over


@pytest.mark.usefixtures("_quick")
def test_a_model_of_targets(tmp_path: Path) -> None:
    built: Any = moved(homes.model(homes.features()))
    whole = homes.saved(tmp_path / "whole", built=built)
    done = compress(whole, "int8", homes.table(tmp_path / "homes.csv"), tmp_path / "small")
    assert done.stages[0].quality.metric.startswith("mean of ")
    assert len(done.stages[0].quality.parts) == len(homes.features().targets)
    predicted = pm.load(tmp_path / "small").predict(tmp_path / "homes.csv")
    assert len(predicted.predictions) > 0


@pytest.mark.usefixtures("_quick")
def test_the_page_tells_what_was_measured_in_both_languages(whole: Path, table: Path, tmp_path: Path) -> None:
    done = compress(whole, "int4:group=8", table, tmp_path / "small", split="all", lang="zh")
    page = (tmp_path / "small" / "compression.html").read_text("utf-8")
    assert "模型压缩报告" in page
    english = done.to_html("en")
    for one in done.stages:
        assert f"{100 * one.quality.value:.2f} %" in english
        assert f"{100 * one.cost.bytes / done.stages[0].cost.bytes:.0f} %" in english
    assert "int4:group=8" in english
    assert "<svg" in english
    assert not re.search(r'(src|href)="https?:', english)
    with pytest.raises(ConfigError, match='lang must be one of en, zh, got "fr"'):
        compress(whole, "int8", table, tmp_path / "other", lang="fr")


# ---------------------------------------------------------------------------------------------------------------------
# The bound on the loss


@pytest.mark.usefixtures("_quick")
def test_a_broken_bound_overwrites_nothing(
    whole: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = artifact.save(tmp_path / "small", model=tiny.clip(), tokenizer=None, preprocess=tiny.preprocess())
    before = {file.name: file.read_bytes() for file in kept.iterdir()}

    def half(work: Work, candidates: int | None = None) -> Quality:
        return Quality("R@1", 0.5 if work.model.forms.stored else 0.9, None, None, {"a": 0.5})

    monkeypatch.setattr(chain_module, "quality", half)
    with pytest.raises(ArtifactError) as refused:
        compress(whole, "bf16", table, kept, max_loss="10%")
    assert "R@1 falls by 40.00 points, 10.00 were allowed; nothing was written" in str(refused.value)
    assert "before: 90.00 %\n  bf16: 50.00 %" in str(refused.value)
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before
    compress(whole, "bf16", table, kept, max_loss="40%")
    assert (kept / "compression.html").exists()


def test_how_a_bound_is_written() -> None:
    assert parse_loss("0.5%") == parse_loss("0.5 %") == parse_loss(0.005) == 0.005
    assert parse_loss(None) is None
    assert parse_loss("0") == 0
    wrongs = {
        "half": 'wanted a share such as 0.5%, got "half"',
        "-1%": "must be at least 0 %",
        "2": "must be .* write 2%, if points were meant",
        "100%": "less than 100 %",
    }
    for wrong, message in wrongs.items():
        with pytest.raises(ConfigError, match=f"max_loss.*{message}"):
            parse_loss(wrong)


@pytest.mark.usefixtures("_quick")
def test_a_bound_finer_than_one_row_is_told(whole: Path, table: Path, tmp_path: Path) -> None:
    done = compress(whole, "bf16", table, tmp_path / "small", max_loss="1%")
    assert any("a single one of the 16 measured rows may count for more" in note for note in done.notes), done.notes


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.usefixtures("_quick")
def test_an_artifact_is_quantized_once(whole: Path, table: Path, tmp_path: Path) -> None:
    compress(whole, "int8", table, tmp_path / "small")
    with pytest.raises(ArtifactError, match=r'small" is quantized already .*quantize the artifact that it was made of'):
        compress(tmp_path / "small", "int4", table, tmp_path / "smaller")
    assert not (tmp_path / "smaller").exists()


@pytest.mark.usefixtures("_quick")
def test_a_full_disk_leaves_nothing(whole: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full)
    with pytest.raises(ArtifactError, match=r"cannot be written \(No space left on device\); nothing was left"):
        compress(whole, "int8", table, tmp_path / "small")
    assert not (tmp_path / "small").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_places_that_are_refused(whole: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is where the artifact itself stands; choose another folder"):
        compress(whole, "int8", table, whole)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="exists and is not an artifact: it is not overwritten"):
        compress(whole, "int8", table, tmp_path / "photos")
    with pytest.raises(ArtifactError, match="does not exist"):
        compress(tmp_path / "nowhere", "int8", table, tmp_path / "small")


def test_rows_that_do_not_fit_are_refused(whole: Path, tmp_path: Path) -> None:
    other = small.write(tmp_path / "other.csv", [{"size": str(n), "price": str(n * n)} for n in range(8)])
    with pytest.raises(DataError, match="no column holds pictures"):
        compress(whole, "int8", other, tmp_path / "small")
    empty = tmp_path / "empty.csv"
    empty.write_text("image,caption\n")
    with pytest.raises(DataError, match="empty"):
        compress(whole, "int8", empty, tmp_path / "small")


@pytest.mark.usefixtures("_quick")
def test_constant_rows_are_refused(whole: Path, table: Path, tmp_path: Path) -> None:
    [line] = small.read(table)[:1]
    file = small.write(tmp_path / "same.csv", [line | {"split": name} for name in ("train", "train", "test", "test")])
    with pytest.raises(DataError, match="the 2 calibration rows are all alike to the model"):
        compress(whole, [Int8(activations="static")], file, tmp_path / "small")


def test_a_batch_goes_through_a_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    batch = FeatureRows(Manifest.read(homes.table(tmp_path / "homes.csv")), homes.features(), tiny.tokenizer()).batch(
        range(5)
    )
    save_file(flat(batch), tmp_path / "batch")
    read = nested(tmp_path / "batch")
    assert read["inputs"].keys() == batch.inputs.keys()
    for name, given in batch.inputs.items():
        assert type(read["inputs"][name]) is type(given)
        for ours, theirs in zip(read["inputs"][name], given, strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(read["present"][name], batch.present[name])


@pytest.mark.usefixtures("_quick")
def test_steps_of_several_kinds_follow_each_other(whole: Path, table: Path, tmp_path: Path) -> None:
    done = compress(whole, "prune:ffn=0.3,by=magnitude,low_rank:rank=0.5,int8", table, tmp_path / "small")
    assert len(done.stages) == 4
    loaded = artifact.load(tmp_path / "small").model
    kinds = {change.form.kind for change in loaded.forms.changes}
    assert {"linear", "int8"} <= kinds
    assert pm.load(tmp_path / "small", device="cpu").embed(texts=["a dog"]).shape == (1, 8)
