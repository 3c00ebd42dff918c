import torch

from polymodal.layers.skeleton import skeleton
from tests import tiny


def test_it_has_the_names_and_shapes_of_the_model() -> None:
    real = tiny.clip()
    bare = skeleton(tiny.clip_config().build)
    assert {name: tensor.shape for name, tensor in bare.state_dict().items()} == {
        name: tensor.shape for name, tensor in real.state_dict().items()
    }
    assert {tensor.device.type for tensor in bare.state_dict().values()} == {"meta"}


def test_what_is_built_afterwards_is_filled_again() -> None:
    skeleton(tiny.clip_config().build)
    assert torch.nn.Linear(3, 3).weight.any()
