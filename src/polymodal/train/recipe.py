"""A recipe: a complete run in one short YAML file.

    model: {name: clip-tiny}
    data: {table: pairs.csv}
    trainer: {epochs: 20, lr: 1e-3}

What a run resolves (the model's sizes, the learned vocabulary, the precision) is written back, so that the recipe.yaml
of a run holds every number and can itself be run.
"""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from polymodal.config import Config, override, read_yaml
from polymodal.data.augment import Augment, ImageAugment
from polymodal.errors import ConfigError, did_you_mean
from polymodal.layers.lora import ATTENTION
from polymodal.models import names
from polymodal.models.clip import ClipConfig
from polymodal.objectives import InfoNceConfig, ObjectiveConfig
from polymodal.preprocess import Decoding, Preprocess

CLIP_METRICS = ("R@1", "R@5", "R@10", "loss")
Fraction = Annotated[float, Field(ge=0, lt=1)]


class TableConfig(Config):
    """Which rows of which table train, and which validate."""

    table: str | None = None  # a file or folder; relative to where the command is run
    images: str | None = None  # folder of the pictures, if not the table's
    exclude: dict[str, tuple[str, ...]] = Field({})  # column -> values; rows that hold one of them are left aside
    split: str | None = None  # column that tells train from val; None: the one with that role, if there is one
    train: tuple[str, ...] = ("train", "training")  # its values for training
    val: tuple[str, ...] = ("val", "valid", "validation", "dev")  # and for validation; a run can do without
    val_fraction: Fraction = 0.1  # of the pictures, when no column tells; 0: no validation
    group: str | None = None  # rows with one value of this column stay on one side of `val_fraction`
    val_limit: int = Field(5000, ge=1)  # pictures (rows, where there are none) validated on, at most
    cache: Literal["auto", "always", "never"] = "auto"  # pictures decoded once into a memory-mapped file
    # Of pictures, see `ImagePreprocess`. None: as the weights that are started from saw them, else fast.
    decoding: Decoding | None = None
    workers: int | None = Field(None, ge=0)  # processes that decode; None: by processors and by the cache


class DataConfig(TableConfig):
    image: str | None = None  # column; None: found by looking at the values
    text: str | tuple[str, ...] | None = None  # one column, or several of which each step takes one
    augment: Augment | None = None  # None: pictures as in use, one of the row's captions by chance


class ClosedForm(Config):
    """Projections between two locked towers that are solved for before training begins; see train/closed_form.py."""

    gamma: float = Field(1.0, gt=0)  # how fast likeness falls with the squared distance of two pictures
    ridge: float = Field(0.1, gt=0)  # pull of the weights to zero
    whiten: float = Field(0.1, gt=0)  # share of the texts' largest variance that is added to every direction's
    class_names: str | None = None  # a file of the image classifier's class names, one a line
    class_weight: float = Field(0.5, ge=0)  # of what the classifier says, beside what likeness says
    copies: int = Field(0, ge=0)  # of each training picture, augmented, that are landmarks beside it
    augment: ImageAugment = ImageAugment(
        scale=(0.9, 1.0), ratio=(0.9, 1.1), rotate=10, shift=0.08, zoom=0.15, brightness=0.2, saturation=0.5, hue=0.05
    )


class TowerWeights(Config):
    """Released weights for single towers: a folder, a name on the hub, or an artifact; and how the towers meet."""

    image: str | None = None
    image_levels: bool = False  # an EfficientNet-Lite also gives the means of its stages and its classifier's logits
    text: str | None = None
    closed_form: ClosedForm | None = None


class NewModel(ClipConfig):
    """A model by its sizes; in a recipe `name` stands for those of a known model, and other keys change them."""

    init: TowerWeights = TowerWeights()

    def sizes(self) -> ClipConfig:
        return ClipConfig.parse(self.model_dump(exclude={"init"}), "model")


class PretrainedModel(Config):
    """A trained model to go on from: an artifact, a released checkpoint's folder, or its name on the hub."""

    kind: Literal["pretrained"] = "pretrained"
    source: str


ModelConfig = Annotated[NewModel | PretrainedModel, Field(discriminator="kind")]


class PretrainedTokenizer(Config):
    """The tokenizer of a checkpoint."""

    kind: Literal["pretrained"] = "pretrained"
    source: str | None = None  # a folder or a name on the hub; None: that of the model or of its text tower


class LearnedTokenizer(Config):
    """A tokenizer learned from the training captions."""

    kind: Literal["learned"] = "learned"
    algorithm: Literal["bpe", "unigram", "wordpiece", "character"] = "bpe"
    vocab_size: int = Field(8192, ge=64)
    lowercase: bool = True


TokenizerConfig = Annotated[PretrainedTokenizer | LearnedTokenizer, Field(discriminator="kind")]


class LoraConfig(Config):
    """Towers learn low-rank corrections of some linear layers; the rest of such a tower is frozen."""

    targets: tuple[str, ...] = ATTENTION  # shell patterns of layers' names
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)


class EarlyStoppingConfig(Config):
    patience: int = Field(5, ge=1)  # validations without a better value
    min_delta: float = Field(0.0, ge=0)


class TrainerConfig(Config):
    epochs: int = Field(10, ge=1)
    steps: int | None = Field(None, ge=1)  # when given it counts instead of epochs
    batch_size: int = Field(256, ge=2)  # pairs that a loss sees at once, over all processes
    chunk_size: int | None = Field(
        None, ge=1
    )  # pairs that a process computes at a time; less memory, a third more time
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0)
    warmup: float = Field(0.05, ge=0)  # below 1: share of all steps; from 1 on: steps
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: float | None = Field(1.0, gt=0)  # of the gradient over all weights
    ema: Fraction | None = None  # decay of the averaged weights, 0.999 say; they are what is validated and kept
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the processor computes in it
    gradient_checkpointing: bool = False  # keep only the blocks' inputs; less memory, a third more time
    cache_locked: bool = True  # a frozen tower whose inputs do not change runs once over all of them, before training
    freeze: tuple[str, ...] = ()  # "text_encoder", "image_encoder.blocks.0-3", "*_encoder.blocks.*.norm1"
    lora: LoraConfig | None = None
    layer_decay: float = Field(1.0, gt=0, le=1)  # factor on the learning rate per layer below the top of a tower
    lr_scale: dict[str, Annotated[float, Field(ge=0)]] = Field({})  # pattern -> factor on the learning rate
    metric: str = "R@1"  # of validation: R@1, R@5, R@10 or loss; the best by it is kept
    early_stopping: EarlyStoppingConfig | None = None
    val_every: int | None = Field(None, ge=1)  # steps; None: every epoch
    save_every: int | None = Field(None, ge=1)  # steps; None: after every validation only
    keep: int = Field(2, ge=1)  # of the last checkpoints, besides the best
    log_every: int = Field(10, ge=1)  # steps
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()  # besides log.jsonl
    devices: int = Field(1, ge=1)
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "TrainerConfig":
        if (self.batch_size or 0) % self.devices:  # a subclass may leave it open
            raise ValueError(f"batch_size must be a multiple of devices ({self.devices}): it counts all processes")
        return self

    def warmup_steps(self, total: int) -> int:
        return int(self.warmup) if self.warmup >= 1 else round(self.warmup * total)


class RunConfig(Config):
    """What every recipe has, whatever it trains."""

    name: str = "run"  # of the run's folder and of the model card
    data: TableConfig = TableConfig()
    trainer: TrainerConfig = TrainerConfig()
    output: str | None = None  # folder of the run; None: runs/<name>, numbered when that is taken


class Recipe(RunConfig):
    data: DataConfig = DataConfig()
    model: ModelConfig
    tokenizer: TokenizerConfig = LearnedTokenizer()
    preprocess: Preprocess | None = None  # None: that of the checkpoint, or by the model's sizes
    objectives: list[ObjectiveConfig] = Field([InfoNceConfig()], min_length=1)

    @model_validator(mode="after")
    def _watches(self) -> "Recipe":
        if self.trainer.metric not in CLIP_METRICS:
            raise ValueError(f"trainer.metric must be one of {', '.join(CLIP_METRICS)}, got {self.trainer.metric!r}")
        return self

    @classmethod
    def read(cls, source: "str | Path | Recipe | Mapping[str, Any]", overrides: Iterable[str] = ()) -> "Recipe":
        """A recipe by name (`clip-tiny`), of a file, or of plain values, with dotted overrides carried out.

        Raises:
            ConfigError: there is no such recipe, or a key or value is wrong.
        """
        return cls.parse(*resolved(source, overrides)[::-1])


def resolved(source: "str | Path | RunConfig | Mapping[str, Any]", overrides: Iterable[str] = ()) -> tuple[str, Any]:
    """What to call a recipe, and its plain values with overrides carried out and a model's name replaced by its sizes.

    Raises:
        ConfigError: there is no such recipe, or an override cannot be carried out.
    """
    where, data = _plain(source)
    data = override(data, overrides)
    model = data.get("model")
    if isinstance(model, Mapping):
        data["model"] = _with_sizes(model)
    return where, data


def lower_is_better(metric: str) -> bool:
    """Whether a metric of a target ("price/mae"), of retrieval, or of an objective is an error."""
    target, _, name = metric.rpartition("/")
    if target:
        return name in ("rmse", "mae", "ece", "brier", "nll")
    return metric != "score" and not metric.startswith("R@") and not metric.endswith("_accuracy")


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("polymodal") / "recipes"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def _plain(source: "str | Path | RunConfig | Mapping[str, Any]") -> tuple[str, dict[str, Any]]:
    if isinstance(source, RunConfig):
        return "recipe", source.to_dict()
    if isinstance(source, Mapping):
        return "recipe", dict(source)
    if str(source) in recipe_names():
        with resources.as_file(resources.files("polymodal") / "recipes" / f"{source}.yaml") as file:
            return str(source), read_yaml(file)
    if Path(source).suffix in (".yaml", ".yml"):
        return str(source), read_yaml(Path(source))
    known = recipe_names()
    raise ConfigError(
        f'no recipe is named "{source}"{did_you_mean(str(source), known) or "; known: " + ", ".join(known)}; '
        "a file of your own ends in .yaml"
    )


def _with_sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` block with `name` replaced by the sizes that it stands for, changed by the block's other keys."""
    if "name" not in model:
        return {"kind": "clip", **model}
    changes = {key: value for key, value in model.items() if key != "name"}
    return _merged(names.config(str(model["name"])).to_dict(), changes)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        # Another kind of tower shares no key with the old one.
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            value = _merged(old, value)
        merged[key] = value
    return merged
