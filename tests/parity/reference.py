"""Small models of transformers with random weights, written to disk as released ones are."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

transformers: Any = import_module("transformers")  # its types are written for another checker

TOLERANCE = 1e-5  # largest difference of any number, float32

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 24,
    "patch_size": 8,
}
TEXT = {
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 11,
    "bos_token_id": 0,
    "eos_token_id": 98,
    "pad_token_id": 1,
}


def randomized(model: Any) -> Any:
    """`model` with every weight drawn anew: a start of zeros and ones would hide a mix-up of two layers."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=draw) * 0.15
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(noise + 1 if is_gain else noise)
        if hasattr(model, "logit_scale"):
            model.logit_scale.fill_(1.7)
    return model.eval()


def clip(**text: Any) -> Any:
    return randomized(
        transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=VISION, text_config=TEXT | text, projection_dim=16)
        )
    )


def chinese_clip() -> Any:
    text = {key: value for key, value in TEXT.items() if not key.endswith("_id")}
    config = transformers.ChineseCLIPConfig(vision_config=VISION, text_config=text, projection_dim=16)
    return randomized(transformers.ChineseCLIPModel(config))


def siglip() -> Any:
    config = transformers.SiglipConfig(
        vision_config=VISION, text_config=TEXT | {"hidden_size": 32, "num_attention_heads": 4}
    )
    return randomized(transformers.SiglipModel(config))


def vit(pooler: bool) -> Any:
    return randomized(transformers.ViTModel(transformers.ViTConfig(**VISION), add_pooling_layer=pooler))


def bert() -> Any:
    text = {key: value for key, value in TEXT.items() if not key.endswith("_id")}
    return randomized(transformers.BertModel(transformers.BertConfig(**text)))


def write(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def ids(count: int = 3, length: int = 9) -> torch.Tensor:
    """Texts of full length that end with the end token."""
    drawn = torch.randint(2, 98, (count, length), generator=torch.Generator().manual_seed(3))
    drawn[:, -1] = 98
    return drawn


def pixels(size: int = 24) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(4))


def largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()
