"""The recipe of a model with several inputs.

    model: {kind: multimodal}
    data: {table: houses.csv, targets: [price, defect]}

Everything left out is chosen by the table and the machine (see `choose`), with a reason, and written into the run's
recipe.yaml. A checkpoint is gone on with by `model.start`:

    model: {kind: multimodal, start: runs/pretrained}
    data: {table: questions.csv, targets: [answer]}
    trainer: {freeze: [encoders.image]}
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from polymodal.config import Config
from polymodal.data.augment import Augment
from polymodal.encoders import EncoderConfig
from polymodal.features import Task
from polymodal.fusion import FusionConfig
from polymodal.models.heads import HeadConfig, SharingConfig
from polymodal.objectives.joint import JointObjectiveConfig
from polymodal.objectives.supervised import SupervisedConfig
from polymodal.train.recipe import (
    Fraction,
    Recipe,
    RunConfig,
    TableConfig,
    TokenizerConfig,
    TrainerConfig,
    resolved,
)

InputKind = Literal["image", "text", "record", "series", "audio", "regions"]


class InputColumns(Config):
    """Columns that one encoder reads."""

    kind: InputKind
    columns: tuple[str, ...] = Field(min_length=1)
    size: int | None = Field(None, ge=1)  # pixels of a picture's sides; None: by the encoder
    max_length: int | None = Field(None, ge=2)  # tokens of a text, steps of a series; None: by the encoder
    seconds: float | None = Field(None, gt=0)  # of a sound
    pick: bool = False  # of a list of captions one is read, in training any; False: all, joined


class TargetPlan(Config):
    """A target as asked for; what is left out is found by looking at its values."""

    columns: tuple[str, ...] = ()  # empty: the column of the target's name
    task: Task | None = None
    classes: tuple[str, ...] | None = None  # in this order; of an ordinal target from low to high


class MultimodalData(TableConfig):
    inputs: dict[str, InputColumns] | None = None  # by the encoder's name; None: every usable column
    leave: tuple[str, ...] = ()  # columns that no input reads
    targets: dict[str, TargetPlan] = Field({})  # in a recipe a list of columns' names does as well
    test: tuple[str, ...] = ("test", "testing")  # values of the split column that are kept for the report
    test_fraction: Fraction = 0.15  # of the rows, kept for the report, when no column tells
    augment: Augment | None = None

    @field_validator("targets", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {name: {} for name in given} if isinstance(given, list | tuple) else given


class MultimodalModel(Config):
    """What is left out is chosen; a `name` in a recipe stands for the sizes of a known model."""

    kind: Literal["multimodal"] = "multimodal"
    start: str | None = None  # an artifact, a run or a released checkpoint to go on from
    init: dict[str, str] = Field({})  # encoder's name -> source of released weights for it
    encoders: dict[str, EncoderConfig] | None = None
    fusion: FusionConfig | None = None
    heads: dict[str, HeadConfig] = Field({})  # by the target's name; else one linear layer; outputs are the target's
    sharing: SharingConfig | None = None
    input_dropout: float | None = Field(None, ge=0, lt=1)

    @field_validator("heads", mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        """A head may be written by what is special about it: `subcategory: {after: [category]}`."""
        if not isinstance(given, Mapping):
            return given
        usual = {"kind": "linear", "outputs": 1}
        return {name: usual | dict(head) if isinstance(head, Mapping) else head for name, head in given.items()}


class MultimodalTrainer(TrainerConfig):
    """Defaults for tables of some thousand rows; epochs and batch size are chosen by the number of rows."""

    epochs: int | None = Field(None, ge=1)  # type: ignore[assignment]
    batch_size: int | None = Field(None, ge=2)  # type: ignore[assignment]
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    warmup: float = Field(0.1, ge=0)
    metric: str = "score"  # the mean of the targets' main metrics; or loss, defect/auroc, masked_text_accuracy

    @model_validator(mode="after")
    def _whole(self) -> "MultimodalTrainer":
        if self.chunk_size is not None:
            raise ValueError("chunk_size is for two towers that meet in a loss; here set gradient_checkpointing")
        return self


class MultimodalRecipe(RunConfig):
    data: MultimodalData = MultimodalData()
    model: MultimodalModel = MultimodalModel()
    tokenizer: TokenizerConfig | None = None  # None: that of the weights that are started from, else a learned one
    objectives: list[JointObjectiveConfig] = Field([SupervisedConfig()], min_length=1)
    trainer: MultimodalTrainer = MultimodalTrainer()

    @model_validator(mode="after")
    def _learns(self) -> "MultimodalRecipe":
        kinds = [objective.kind for objective in self.objectives]
        balances = [one.balance.kind for one in self.objectives if isinstance(one, SupervisedConfig)]
        if self.trainer.metric == "loss" and (learned := {"uncertainty", "gradnorm"}.intersection(balances)):
            raise ValueError(
                f'trainer.metric "loss" says nothing under balance "{learned.pop()}", whose weights are learned and '
                'can bring it below 0; watch "score", or "supervised", the plain sum'
            )
        if not self.data.targets and "supervised" in kinds:
            raise ValueError("nothing to learn: name data.targets (`--target price`), or objectives as masked_text")
        return self


def read_recipe(
    source: "str | Path | RunConfig | Mapping[str, Any]", overrides: Iterable[str] = ()
) -> Recipe | MultimodalRecipe:
    """A recipe of either kind, told apart by `model.kind`.

    Raises:
        ConfigError: there is no such recipe, or a key or value is wrong.
    """
    where, data = resolved(source, overrides)
    model = data.get("model")
    if isinstance(model, Mapping) and model.get("kind") == "multimodal":
        return MultimodalRecipe.parse(_slim(data), where)
    return Recipe.parse(data, where)


def _slim(data: dict[str, Any]) -> dict[str, Any]:
    """A known model's config has its heads in their own form; a recipe's are by target and made by its objectives."""
    model = {key: value for key, value in data["model"].items() if key != "pretraining"}
    if isinstance(model.get("heads"), Mapping) and "targets" in model["heads"]:
        heads = model.pop("heads")
        model |= {"heads": heads["targets"], "sharing": heads.get("sharing")}
    return data | {"model": model}
