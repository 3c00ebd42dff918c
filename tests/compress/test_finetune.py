"""Fine-tuning: a model learns on, what was pruned stays pruned, and what was given stays as it was."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from polymodal.compress.calibration import losses
from polymodal.compress.finetune import Finetune
from polymodal.compress.sparse import matrices, put_zeros
from polymodal.compress.step import Work, parse_steps
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.models.ensemble import ClipEnsembleConfig
from polymodal.models.forms import Bfloat16Storage
from tests import tiny
from tests.compress import homes, work


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def rows(tmp_path: Path) -> Work:
    folder = homes.saved(tmp_path / "model", homes.features("price", "color"))
    return work.begun(folder, homes.table(tmp_path / "rows.csv", 120, split=False))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_a_model_of_rows_learns_and_the_artifact_stays_as_it_was(rows: Work) -> None:
    before, given = rows.score(), weights(rows.model)
    done = Finetune(epochs=12, lr=0.01, batch_size=16).run(rows)
    assert done.score().value > before.value + 0.2
    assert all(torch.equal(weight, given[name]) for name, weight in rows.model.state_dict().items())
    assert not done.model.training
    assert all(weight.requires_grad for weight in done.model.parameters())


def zeros(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module.weight == 0


def test_weights_that_were_pruned_stay_zero_and_the_others_move(rows: Work) -> None:
    pruned = rows.copy()
    put_zeros(list(matrices(pruned).values()), 0.5)
    before = list(zeros(pruned))
    done = Finetune(epochs=1, lr=0.01, ema=0.5, batch_size=16).run(replace(rows, model=pruned))
    assert sum(int(one.sum()) for one in before) > 100
    for old, new in zip(before, zeros(done.model), strict=True):
        assert torch.equal(old, new)
    assert any(not torch.equal(a, b) for a, b in zip(pruned.parameters(), done.model.parameters(), strict=True))


def test_what_is_frozen_does_not_move(rows: Work) -> None:
    done = Finetune(lr=0.01, freeze=("encoders.record",)).run(rows)
    moved = {
        name.split(".")[0]
        for name, weight in done.model.state_dict().items()
        if not torch.equal(weight, rows.model.state_dict()[name])
    }
    assert moved == {"fusion", "heads"}


def nats(started: Work, done: Work) -> float:
    """The contrastive loss of a batch."""
    return next(losses(started, done.model, 32)).item()


def test_pairs_come_nearer(tmp_path: Path) -> None:
    started = work.begun(homes.clip(tmp_path / "clip"), work.pairs(tmp_path / "pairs"))
    done = Finetune(epochs=10, lr=3e-3, batch_size=16).run(started)
    assert nats(started, done) < nats(started, started) - 0.5


def test_siglips_kind_of_model_learns_by_its_own_loss(tmp_path: Path) -> None:
    started = work.begun(homes.clip(tmp_path / "clip", tiny.siglip()), work.pairs(tmp_path / "pairs"))
    done = Finetune(epochs=1, lr=3e-3, batch_size=16).run(started)
    assert not torch.equal(done.model.bias, started.model.bias)  # type: ignore[arg-type]


def test_a_chain_reads_it() -> None:
    (step,) = parse_steps("finetune:epochs=3,freeze=[image_encoder],lr=1e-5")
    assert step == Finetune(epochs=3, freeze=("image_encoder",), lr=1e-5)
    assert str(step) == "finetune:epochs=3,lr=1e-05,freeze=['image_encoder']"


def test_what_cannot_learn_is_refused(tmp_path: Path, rows: Work) -> None:
    clip = tiny.clip()
    whole = ClipEnsembleConfig(members=(clip.config,), weights=(1.0,), temperature=0.1).build()
    ensemble = work.begun(homes.clip(tmp_path / "all", whole), work.pairs(tmp_path / "pairs"))
    with pytest.raises(ArtifactError, match=r'step "finetune": ".*all" is made of several models and does not learn'):
        Finetune().run(ensemble)
    with pytest.raises(ConfigError, match="nothing to train"):
        Finetune(freeze=("encoders", "fusion", "heads", "missing")).run(rows)
    with pytest.raises(DataError, match='step "finetune" needs at least 2 rows to learn from, got 1'):
        Finetune().run(replace(rows, train=rows.train.select([0])))
    mute = work.begun(homes.clip(tmp_path / "mute", tokenizer=None), tmp_path / "pairs" / "pairs.csv")
    with pytest.raises(DataError, match="has no tokenizer, and pairs need texts"):
        Finetune().run(mute)
    untrained = homes.features().model_copy(update={"targets": {}})
    headless = work.begun(homes.saved(tmp_path / "headless", untrained), tmp_path / "rows.csv")
    with pytest.raises(ConfigError, match="has no targets to learn; let a teacher teach it"):
        Finetune().run(headless)


def test_a_quantized_model_is_refused(tmp_path: Path, rows: Work) -> None:
    stored = rows.copy()
    name = next(iter(stored.state_dict()))
    stored.forms = stored.forms.storing({name: Bfloat16Storage()})
    with pytest.raises(ArtifactError, match="is quantized, and what is quantized does not learn"):
        Finetune().run(replace(rows, model=stored))
