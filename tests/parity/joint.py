"""Small models of a text and a picture, of transformers, and what goes into them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from polymodal.models import published
from polymodal.models.multimodal import Multimodal, MultimodalOutput
from polymodal.types import Input, Regions, Text
from tests.parity import reference
from tests.parity.reference import transformers

ROWS, REGIONS, FEATURES, ANSWERS = 3, 4, 7, 5
SIZES = {
    "vocab_size": 99,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 11,
}


def lxmert(name: str, **changes: Any) -> Any:
    sizes = SIZES | {"l_layers": 2, "r_layers": 1, "x_layers": 2, "visual_feat_dim": FEATURES}
    heads = {"num_qa_labels": ANSWERS, "num_object_labels": 6, "num_attr_labels": 4}
    config = transformers.LxmertConfig(**(sizes | heads | changes))
    return reference.randomized(getattr(transformers, name)(config))


def vilt(name: str, **changes: Any) -> Any:
    sizes = SIZES | {"num_hidden_layers": 2, "image_size": 24, "patch_size": 8, "num_labels": ANSWERS}
    return reference.randomized(getattr(transformers, name)(transformers.ViltConfig(**(sizes | changes))))


def visualbert(name: str, **changes: Any) -> Any:
    sizes = SIZES | {"num_hidden_layers": 2, "visual_embedding_dim": FEATURES, "num_labels": ANSWERS}
    return reference.randomized(getattr(transformers, name)(transformers.VisualBertConfig(**(sizes | changes))))


def text() -> Text:
    """Three texts of unequal length."""
    ids = reference.ids(ROWS, 9)
    mask = torch.arange(9) < torch.tensor([[9], [5], [3]])
    return Text(ids.where(mask, 0), mask)


def regions() -> Regions:
    """Of three pictures, with unequal numbers of regions."""
    draw = torch.Generator().manual_seed(6)
    features = torch.randn(ROWS, REGIONS, FEATURES, generator=draw)
    corners = torch.rand(ROWS, REGIONS, 2, 2, generator=draw).sort(dim=2).values
    mask = torch.arange(REGIONS) < torch.tensor([[4], [2], [3]])
    return Regions(features, corners.flatten(2), mask)


def labels() -> Tensor:
    """Words to be found, (B, L), -100 where none is asked for."""
    asked = torch.tensor([[1, 4], [2, 3], [0, 1]])
    found = torch.full((ROWS, 9), -100)
    return found.scatter(1, asked, torch.randint(0, 99, asked.shape, generator=torch.Generator().manual_seed(8)))


def run(model: Any, image: Input) -> MultimodalOutput:
    assert isinstance(model, Multimodal)
    out: MultimodalOutput = model({"text": text(), "image": image})
    return out


def masked_text_loss(model: Any, out: MultimodalOutput) -> Tensor:
    """Cross-entropy of the asked words, from our head."""
    states = out.fused.tokens["text"].sequence[labels() >= 0]
    return torch.nn.functional.cross_entropy(model.pretraining["masked_text"](states), labels()[labels() >= 0])


def rewrite(folder: Path, state: dict[str, Tensor]) -> None:
    """The folder's weights in place of those that it has."""
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})


def check_way_back(theirs: Any, folder: Path, unread: str = "no weight") -> None:
    """From their file to ours and back: the same names and numbers, a file that theirs reads whole, and our own again.

    Args:
        unread: in the names of weights that nothing reads, which come back as zeros.
    """
    original = reference.weights(reference.write(theirs, folder / "theirs"))
    pretrained = published.load(folder / "theirs")
    published.save(pretrained, folder / "ours")
    written = reference.weights(folder / "ours")
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(written[name], torch.zeros_like(tensor) if unread in name else tensor), name
    again, info = type(theirs).from_pretrained(folder / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(mine, yours) for mine, yours in _both(again, theirs, unread))
    back = published.load(folder / "ours")
    assert back.config == pretrained.config
    state = pretrained.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.model.state_dict().items())


def _both(one: Any, other: Any, unread: str) -> list[tuple[Tensor, Tensor]]:
    theirs = dict(other.named_parameters())
    return [(weight, theirs[name]) for name, weight in one.named_parameters() if unread not in name]
