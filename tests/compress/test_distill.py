"""Distillation: a student comes to say what its teacher says, whatever the two have in common."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymodal import artifact
from polymodal.compress.distill import Distill
from polymodal.compress.ensemble import ensemble
from polymodal.compress.layerwise import Layers
from polymodal.compress.sparse import matrices, put_zeros
from polymodal.compress.step import Work, parse_steps
from polymodal.engine import Engine, Predictor
from polymodal.errors import ArtifactError, ConfigError
from polymodal.layers.transformer import Block, Transformer
from polymodal.metrics.supervised import probabilities
from polymodal.models.clip import Clip
from polymodal.objectives.distillation import hidden_states
from polymodal.text import train_tokenizer
from tests import tiny
from tests.compress import homes, work


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


# ---------------------------------------------------------------------------------------------------------------------
# Rows of a table


@pytest.fixture
def rows(tmp_path: Path) -> Work:
    """The teacher is the artifact; the student has other random weights."""
    given = homes.features("price", "color", "rooms", "state")
    begun = work.begun(homes.saved(tmp_path / "teacher", given), homes.table(tmp_path / "rows.csv", 64, split=False))
    return replace(begun, model=homes.model(given, seed=1))


def told(work_: Work, model: Any, preprocess: Any = None) -> dict[str, Tensor]:
    """What a model says of each target: shares, or values in their own units."""
    predictor = Predictor(model, work_.tokenizer, preprocess or homes.features_of(work_), device="cpu")
    found = predictor.outputs(predictor.rows(work_.train))
    targets = predictor.features.targets
    return {
        name: outputs * targets[name].std + targets[name].mean
        if targets[name].task == "regression"
        else torch.from_numpy(probabilities(targets[name].task, outputs))
        for name, outputs in found.items()
    }


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    return {name: (one[name] - other[name]).abs().mean().item() for name in one}


def test_without_any_label_a_student_comes_to_say_what_its_teacher_says(rows: Work) -> None:
    wanted, before = told(rows, rows.artifact.model), told(rows, rows.model)
    done = Distill(epochs=20, lr=0.01, batch_size=16, hard=0).run(rows)
    first, last = apart(before, wanted), apart(told(done, done.model), wanted)
    assert all(last[name] < 0.4 * first[name] for name in first), (first, last)
    assert hooks(done.model) == hooks(rows.artifact.model) == 0


def test_a_teacher_may_scale_its_columns_and_values_otherwise(tmp_path: Path, rows: Work) -> None:
    other = homes.features("price", "color", mean=10.0)
    price = other.targets["price"].model_copy(update={"mean": 100.0, "std": 30.0})
    other = other.model_copy(update={"targets": {"price": price}})
    teacher = artifact.load(homes.saved(tmp_path / "other", other, seed=2))
    wanted = told(rows, teacher.model, other)
    done = Distill(teacher=(str(tmp_path / "other"),), epochs=20, lr=0.01, batch_size=16, hard=0).run(rows)
    assert apart(wanted, told(done, done.model))["price"] < 0.3 * apart(wanted, told(rows, rows.model))["price"]


def test_of_several_teachers_the_student_learns_their_mean(tmp_path: Path, rows: Work) -> None:
    names = []
    for nth, mean in enumerate((200.0, 500.0)):
        given = homes.features("price")
        constant = homes.model(given, nth)
        with torch.no_grad():
            for weight in constant.heads.parameters():
                weight.zero_()
            constant.heads.targets["price"][1].bias.fill_((mean - 300) / 100)  # type: ignore[index]
        names.append(str(homes.saved(tmp_path / str(nth), given, built=constant)))
    step = Distill(teacher=tuple(names), teacher_weights=(2, 1), epochs=15, lr=0.04, batch_size=16, hard=0)
    done = step.run(rows)
    assert told(done, done.model)["price"].mean().item() == pytest.approx(300, abs=25)


def test_an_ensemble_may_teach(tmp_path: Path, rows: Work) -> None:
    sources = [homes.saved(tmp_path / str(nth), homes.features("price"), nth) for nth in range(2)]
    table = homes.table(tmp_path / "more.csv", 24, split=False)
    ensemble(sources, table, tmp_path / "all", weights="uniform")
    done = Distill(teacher=(str(tmp_path / "all"),), hard=0).run(rows)
    assert not torch.equal(told(done, done.model)["price"], told(rows, rows.model)["price"])


def test_layers_and_the_joint_state_can_be_imitated(rows: Work) -> None:
    step = Distill(epochs=20, lr=0.01, batch_size=16, hard=0, logits=0, embedding=1, hidden=1, attention=1)
    done = step.run(rows)

    def state(model: Any) -> Tensor:
        predictor = Predictor(model, None, homes.features_of(rows), device="cpu")
        return normalize(torch.from_numpy(predictor.embed(rows.train)), dim=-1)

    wanted = state(rows.artifact.model)
    cosine = [(state(model) * wanted).sum(1).mean().item() for model in (rows.model, done.model)]
    assert cosine[1] > 0.95 > cosine[0]
    assert hooks(done.model) == hooks(rows.artifact.model) == 0


def test_what_was_pruned_stays_zero(rows: Work) -> None:
    pruned = rows.copy()
    put_zeros(list(matrices(pruned).values()), 0.5)
    zero = {name: weight == 0 for name, weight in pruned.state_dict().items()}
    done = Distill(epochs=1, lr=0.01, batch_size=16).run(replace(rows, model=pruned))
    assert all(
        bool((done.model.state_dict()[name][mask] == 0).all()) for name, mask in zero.items() if ".weight" in name
    )


# ---------------------------------------------------------------------------------------------------------------------
# Pictures and texts


@pytest.fixture
def pairs(tmp_path: Path) -> Work:
    torch.manual_seed(1)
    begun = work.begun(homes.clip(tmp_path / "teacher"), work.pairs(tmp_path / "pairs"))
    return replace(begun, model=tiny.clip_config().build().eval())


def cosines(work_: Work, model: Clip, **other: Any) -> Tensor:
    """Of all pictures and their captions."""
    given = {"tokenizer": work_.tokenizer, "preprocess": work_.preprocess} | other
    engine = Engine(model, given["tokenizer"], given["preprocess"], device="cpu")
    files = [work_.train.image_reference(row) for row in range(len(work_.train))]
    texts = [work_.train.captions(row)[0] for row in range(len(work_.train))]
    return torch.from_numpy(engine.embed(images=files, root=work_.train.root) @ engine.embed(texts=texts).T)


@pytest.mark.parametrize(
    "options",
    [{"embedding": 0}, {"affinity": 0}, {"hidden": 1, "attention": 1}],
    ids=["affinity", "embedding", "layers"],
)
def test_likeness_becomes_that_of_the_teacher(pairs: Work, options: dict[str, float]) -> None:
    assert isinstance(pairs.artifact.model, Clip)
    assert isinstance(pairs.model, Clip)
    wanted = cosines(pairs, pairs.artifact.model)
    done = Distill(epochs=8, lr=8e-3, batch_size=16, hard=0, **options).run(pairs)
    assert isinstance(done.model, Clip)

    def likeness(model: Clip) -> float:
        """Correlation of who is like whom with the teacher's."""
        found = torch.stack([cosines(pairs, model).flatten(), wanted.flatten()])
        return torch.corrcoef(found)[0, 1].item()

    assert likeness(done.model) > max(0.5, likeness(pairs.model) + 0.3)
    assert hooks(done.model) == hooks(pairs.artifact.model) == 0


def test_a_teacher_may_have_another_tokenizer_picture_size_and_width(tmp_path: Path, pairs: Work) -> None:
    words = train_tokenizer(tiny.CAPTIONS * 3, "wordpiece", vocab_size=200)
    sizes = tiny.clip_config(
        image=tiny.vit_config(image_size=24), text=tiny.bert_config(vocab_size=words.vocab_size), width=12
    )
    image = tiny.preprocess().image.model_copy(update={"size": 24})
    preprocess = tiny.preprocess().model_copy(update={"image": image})
    folder = homes.clip(tmp_path / "other", sizes.build().eval(), tokenizer=words, preprocess=preprocess)
    teacher = artifact.load(folder).model
    assert isinstance(teacher, Clip)
    assert isinstance(pairs.model, Clip)
    wanted = cosines(pairs, teacher, tokenizer=words, preprocess=preprocess)
    done = Distill(teacher=(str(folder),), epochs=8, lr=8e-3, batch_size=16, hard=0).run(pairs)
    assert isinstance(done.model, Clip)
    likeness = [
        torch.corrcoef(torch.stack([cosines(pairs, model).flatten(), wanted.flatten()]))[0, 1].item()
        for model in (pairs.model, done.model)
    ]
    assert likeness[1] > likeness[0] + 0.3
    with pytest.raises(ArtifactError, match=r'other" sees the inputs otherwise .* leave both out'):
        Distill(teacher=(str(folder),), hidden=1).run(pairs)


# ---------------------------------------------------------------------------------------------------------------------
# Layers


def stack(width: int, layers: int, causal: bool = False) -> Transformer:
    return Transformer(layers, width, 2, 2 * width, "gelu", 1e-5, causal=causal)


def test_states_are_compared_layer_by_layer_and_padding_does_not_count() -> None:
    torch.manual_seed(0)
    student, teacher = nn.ModuleDict({"t": stack(8, 1)}), nn.ModuleDict({"t": stack(8, 2)})
    layers = Layers({"t": student["t"]}, {"t": teacher["t"]})
    x, mask = torch.randn(3, 5, 8), torch.arange(5) < torch.tensor([[5], [3], [2]])
    student.train()  # real tokens alone are packed then
    said, wanted = student["t"](x, mask), teacher["t"].eval()(x, mask)
    found = layers.losses({"t": mask}, hidden=True, maps=True)
    assert found["hidden"].item() == pytest.approx(hidden_states(said, wanted, mask).item(), rel=1e-5)
    assert found["attention"] > 0
    layers.clear()
    student["t"](x.masked_fill(~mask[..., None], 9.0), mask)
    teacher["t"](x, mask)
    again = layers.losses({"t": mask}, hidden=True, maps=True)
    assert {name: value.item() for name, value in again.items()} == pytest.approx(
        {name: value.item() for name, value in found.items()}, rel=1e-4
    )


@pytest.mark.parametrize("causal", [False, True])
def test_a_student_like_its_teacher_has_no_loss(causal: bool) -> None:
    tower = stack(8, 2, causal)
    layers = Layers({"t": tower}, {"t": tower})
    tower(torch.randn(2, 4, 8))
    found = layers.losses({"t": torch.ones(2, 4, dtype=torch.bool)}, hidden=True, maps=True)
    assert found["hidden"].item() == 0
    assert found["attention"].item() == pytest.approx(0, abs=1e-6)


def test_a_narrow_student_learns_a_projection_and_both_losses_reach_its_weights() -> None:
    student, teacher = stack(4, 2), stack(8, 4)
    layers = Layers({"t": student}, {"t": teacher})
    student(torch.randn(2, 3, 4))
    with torch.no_grad():
        teacher(torch.randn(2, 3, 8))
    sum(layers.losses({"t": torch.ones(2, 3, dtype=torch.bool)}, hidden=True, maps=True).values()).backward()  # type: ignore[union-attr]
    assert sum(weight.numel() for weight in layers.parameters()) == 32
    first = student[0]
    assert isinstance(first, Block)
    for weight in (*layers.parameters(), first.attention.qkv.weight):
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
    layers.stop()
    assert hooks(student) == hooks(teacher) == 0


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def test_a_chain_reads_it() -> None:
    (step,) = parse_steps("distill:teacher=[runs/a,runs/b],teacher_weights=[2,1],hidden=1")
    assert step == Distill(teacher=("runs/a", "runs/b"), teacher_weights=(2, 1), hidden=1)
    assert parse_steps("distill:teacher=runs/a") == [Distill(teacher=("runs/a",))]
    for written, message in (
        ("distill:teacher=a,teacher_weights=[1,2]", "must be 1 numbers, one for each teacher"),
        ("distill:teacher=[a,b],teacher_weights=[0,0]", "must not all be 0"),
        ("distill:logit=1", 'unknown key "logit"; did you mean "logits"'),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_steps(written)


def test_losses_of_another_kind_of_model_are_refused(rows: Work, pairs: Work) -> None:
    with pytest.raises(ConfigError, match="affinity is for models of pictures and texts; leave it out"):
        Distill(affinity=1).run(rows)
    with pytest.raises(ConfigError, match="logits is for models that predict targets"):
        Distill(logits=1).run(pairs)
    with pytest.raises(ConfigError, match="every loss of the teacher has weight 0; use finetune"):
        Distill(logits=0).run(rows)


def test_teachers_that_cannot_teach_are_refused(tmp_path: Path, rows: Work, pairs: Work) -> None:
    def refused(begun: Work, message: str, folder: Path, **options: Any) -> None:
        with pytest.raises(ArtifactError, match=message):
            Distill(teacher=(str(folder),), **options).run(begun)

    refused(rows, "is not of the student's kind", pairs.artifact.folder)
    refused(rows, "does not exist", tmp_path / "nowhere")
    refused(rows, "no target in common", homes.saved(tmp_path / "defect", homes.features("defect")))
    turned = homes.features("color")
    color = turned.targets["color"].model_copy(update={"classes": ("red", "green", "blue")})
    folder = homes.saved(tmp_path / "turned", turned.model_copy(update={"targets": {"color": color}}))
    refused(rows, r'"color" is multiclass \(red, green, blue\) to teacher .* and multiclass \(blue, green', folder)
    refused(
        rows, "sees the inputs otherwise", homes.saved(tmp_path / "mean", homes.features("price", mean=1.0)), hidden=1
    )


def test_layers_without_transformers_are_refused() -> None:
    with pytest.raises(ConfigError, match="hidden and attention imitate transformer blocks, and none of t has some"):
        Layers({"t": nn.Linear(2, 2)}, {"t": stack(8, 1)})
