"""Networks trained on ImageNet-1k whose files are bare state dicts: torchvision's and timm's ResNets, and
EfficientNet-Lite as the package efficientnet_lite_pytorch names it.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from polymodal.encoders.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig, InvertedResidual
from polymodal.encoders.resnet import Resnet, ResnetConfig
from polymodal.errors import ArtifactError
from polymodal.layers.skeleton import skeleton
from polymodal.models.names import ENCODERS
from polymodal.models.published.keymap import Entry, batch_norm, same
from polymodal.preprocess import ImagePreprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESNET_HEADS = ("fc.",)
LITE_HEADS = ("_fc.",)


def is_resnet(state: Mapping[str, Tensor]) -> bool:
    return {"conv1.weight", "bn1.weight", "layer4.0.conv1.weight"} <= state.keys()


def resnet_config(state: Mapping[str, Tensor]) -> ResnetConfig:
    layers = [len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)]
    block = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    return ResnetConfig.parse({"block": block, "layers": layers, "stem": len(state["conv1.weight"])}, "ResNet")


def resnet_entries(model: Resnet) -> list[Entry]:
    return [same(name, name) for name in model.state_dict()]


def resnet_preprocess(config: ResnetConfig) -> ImagePreprocess:
    return ImagePreprocess(size=config.image_size, interpolation="bilinear", mean=MEAN, std=STD)


def is_lite(state: Mapping[str, Tensor]) -> bool:
    return {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight"} <= state.keys()


def lite_config(state: Mapping[str, Tensor], levels: bool) -> EfficientNetLiteConfig:
    """Which of Lite0 to Lite4 it is, by the number of blocks and the width of the last.

    Args:
        levels: to be pooled over its levels, with its classifier's logits.

    Raises:
        ArtifactError: it is none of them (for instance an EfficientNet with squeeze-and-excitation).
    """
    blocks = {int(found[1]) for key in state if (found := re.match(r"_blocks\.(\d+)\.", key))}
    shape = (len(blocks), tuple(state[f"_blocks.{max(blocks)}._project_conv.weight"].shape))
    for config in ENCODERS.values():
        if isinstance(config, EfficientNetLiteConfig) and shape == _lite_shape(config):
            return config.model_copy(update={"pool": "levels", "classes": len(state["_fc.bias"])}) if levels else config
    raise ArtifactError(f"EfficientNet: {shape[0]} blocks, the last {shape[1]}, is none of Lite0 to Lite4")


def _lite_shape(config: EfficientNetLiteConfig) -> tuple[int, tuple[int, ...]]:
    blocks = skeleton(config.build).blocks
    last = blocks[-1]
    assert isinstance(last, InvertedResidual)
    return len(blocks), tuple(last.project.weight.shape)


def lite_entries(model: EfficientNetLite) -> list[Entry]:
    found = [same("stem.weight", "_conv_stem.weight"), *batch_norm("stem_norm", "_bn0")]
    found += [same("head.weight", "_conv_head.weight"), *batch_norm("head_norm", "_bn1")]
    if model.classifier is not None:
        found += [same("classifier.weight", "_fc.weight"), same("classifier.bias", "_fc.bias")]
    for number, block in enumerate(model.blocks):
        ours, theirs = f"blocks.{number}", f"_blocks.{number}"
        assert isinstance(block, InvertedResidual)
        if block.expands:
            found += [same(f"{ours}.expand.weight", f"{theirs}._expand_conv.weight")]
            found += batch_norm(f"{ours}.norm0", f"{theirs}._bn0")
        found += [same(f"{ours}.depthwise.weight", f"{theirs}._depthwise_conv.weight")]
        found += batch_norm(f"{ours}.norm1", f"{theirs}._bn1")
        found += [same(f"{ours}.project.weight", f"{theirs}._project_conv.weight")]
        found += batch_norm(f"{ours}.norm2", f"{theirs}._bn2")
    return found


def lite_preprocess(config: EfficientNetLiteConfig) -> ImagePreprocess:
    """(x - 127) / 128 on 0 to 255, as tensorflow/tpu efficientnet/lite/efficientnet_lite_builder.py has it."""
    third = (127 / 255,) * 3
    return ImagePreprocess(size=config.image_size, mean=third, std=(128 / 255,) * 3)
