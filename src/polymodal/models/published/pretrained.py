"""What loading a released checkpoint gives."""

from dataclasses import dataclass
from typing import Any

from polymodal.encoders.bert import Bert
from polymodal.encoders.efficientnet_lite import EfficientNetLite
from polymodal.encoders.resnet import Resnet
from polymodal.encoders.vit import Vit
from polymodal.encoders.whisper import Whisper
from polymodal.features import Features
from polymodal.models.clip import Clip
from polymodal.models.multimodal import Multimodal
from polymodal.models.published.keymap import Entry, State, to_ours
from polymodal.preprocess import Preprocess, TextPreprocess
from polymodal.text import Tokenizer

Model = Clip | Vit | Resnet | EfficientNetLite | Bert | Whisper | Multimodal


@dataclass(frozen=True)
class Pretrained:
    model: Model  # float32, in eval mode
    tokenizer: Tokenizer | None  # None for an image tower, or where the source has none
    preprocess: Preprocess
    left_out: tuple[str, ...] = ()  # weights of the source that belong to heads which the model does not have
    features: Features | None = None  # of an artifact with several inputs, which says more than `preprocess`
    answers: tuple[str, ...] = ()  # what the outputs of the head "answer" stand for, where the source says so

    @property
    def config(self) -> Any:
        """The model's config: `ClipConfig`, `VitConfig`, `BertConfig`, `MultimodalConfig`, ..."""
        return self.model.config


def end_token(tokenizer: Tokenizer | None) -> int | None:
    """The id with which the tokenizer ends every text; None without a tokenizer, or where it adds none."""
    if tokenizer is None or tokenizer.backend.num_special_tokens_to_add(False) == 0:
        return None
    return int(tokenizer([""], TextPreprocess()).ids[0, -1])


def fill(model: Any, state: State, entries: list[Entry], heads: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Give a skeleton the weights of a checkpoint.

    Args:
        heads: prefixes of the checkpoint's names that may be left out.

    Returns:
        The names that were left out.

    Raises:
        ArtifactError: a weight is missing, has no place or does not fit.
    """
    wanted = {name for entry in entries for name in entry.theirs}
    left_out = tuple(sorted(key for key in state if key.startswith(heads) and key not in wanted)) if heads else ()
    used = {key: value for key, value in state.items() if key not in left_out}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    ours = to_ours(used, entries, shapes, where)
    model.to_empty(device="cpu")
    model.load_state_dict(ours)  # copies, so that no file stays mapped under the model
    model.eval()
    return left_out
