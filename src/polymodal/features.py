"""What a table's columns go through before a model sees them, and what its targets are; it travels in the artifact.

The settings live here, below data and objectives, for both obey them; `data/fit_features` learns them from training
rows.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from polymodal.config import Config
from polymodal.preprocess import AudioPreprocess, Decoding, ImagePreprocess, TextPreprocess
from polymodal.types import Input

MISSING, UNSEEN, FIRST = 0, 1, 2  # codes of a category: no value, a value unseen in training, the first known value


class NumberColumn(Config):
    name: str
    mean: float  # of the training rows
    std: float = Field(gt=0)


class CategoryColumn(Config):
    name: str
    values: tuple[str, ...]  # of the training rows, the most frequent first; the code of values[0] is FIRST


class ImageInput(Config):
    kind: Literal["image"] = "image"
    column: str
    preprocess: ImagePreprocess = ImagePreprocess()


class TextInput(Config):
    kind: Literal["text"] = "text"
    columns: tuple[str, ...] = Field(min_length=1)  # several are read as one text, each after its name
    pick: bool = False  # of a list of captions one is read, the first or in training any; False: all, joined
    preprocess: TextPreprocess = TextPreprocess()


class RecordInput(Config):
    kind: Literal["record"] = "record"
    numbers: tuple[NumberColumn, ...] = ()
    categories: tuple[CategoryColumn, ...] = ()


class SeriesInput(Config):
    kind: Literal["series"] = "series"
    column: str
    means: tuple[float, ...]  # of each channel
    stds: tuple[float, ...]
    max_length: int = Field(512, ge=1)  # steps; longer ones are cut at the end


class AudioInput(Config):
    kind: Literal["audio"] = "audio"
    column: str
    preprocess: AudioPreprocess = AudioPreprocess()


class RegionsInput(Config):
    kind: Literal["regions"] = "regions"
    column: str
    width: int = Field(ge=1)  # of a region's features
    classes: int = Field(0, ge=0)  # of the detector, where the file has its distributions
    max_regions: int = Field(36, ge=1)


InputConfig = Annotated[
    ImageInput | TextInput | RecordInput | SeriesInput | AudioInput | RegionsInput, Field(discriminator="kind")
]
Task = Literal["binary", "multiclass", "multilabel", "regression", "ordinal", "soft", "tokens"]


class Target(Config):
    """One thing to predict.

    In a batch, by task: binary (B,) float 0 or 1; multiclass and ordinal (B,) int64; multilabel (B, C) float 0 or 1,
    known label by label; regression (B,) float, (value - mean) / std; soft (B, C) float, the score of every answer, 0
    to 1 (VQA); tokens (B, L) int64, known at the first piece of each word.
    """

    columns: tuple[str, ...] = Field(min_length=1)  # several: multilabel, one column of 0 and 1 a label
    task: Task
    classes: tuple[str, ...] = ()  # ordinal: from low to high; binary: what 0 and what 1 stand for
    text: str = "text"  # tokens: the input whose pieces are labelled; it has one column, of lists of words
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    temperature: float = Field(1.0, gt=0)  # logits are divided by it; fitted on validation rows (Guo et al. 2017)

    @property
    def outputs(self) -> int:
        """Numbers that a head gives: one logit for binary, one value for regression, C - 1 thresholds for ordinal."""
        match self.task:
            case "binary" | "regression":
                return 1
            case "ordinal":
                return len(self.classes) - 1
            case _:
                return len(self.classes)

    @model_validator(mode="after")
    def _fits(self) -> "Target":
        if self.task != "regression" and len(self.classes) < 2:
            raise ValueError(f"a {self.task} target needs at least 2 classes, got {len(self.classes)}")
        return self


class Features(Config):
    inputs: dict[str, InputConfig] = Field(min_length=1)  # by the name of the model's encoder
    targets: dict[str, Target] = Field({})  # by the name of the model's head

    def normalize(self, inputs: Mapping[str, Input]) -> dict[str, Input]:
        """Inputs as the data gives them -> as the model takes them: pictures from uint8 to normalized floats."""
        settings = {name: config.preprocess for name, config in self.inputs.items() if isinstance(config, ImageInput)}
        return {
            name: settings[name].normalize(given) if name in settings and isinstance(given, Tensor) else given
            for name, given in inputs.items()
        }

    def with_decoding(self, decoding: Decoding | None) -> "Features":
        """The same but for the decoding of pictures; None leaves that too."""
        changed = {
            name: config.model_copy(update={"preprocess": config.preprocess.with_decoding(decoding)})
            for name, config in self.inputs.items()
            if isinstance(config, ImageInput)
        }
        return self.model_copy(update={"inputs": {**self.inputs, **changed}})
