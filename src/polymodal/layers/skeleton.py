"""A model's names and shapes without its memory, in milliseconds."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Built = TypeVar("Built", bound=nn.Module)
FILLS = (Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_)


class _Unfilled(TorchFunctionMode):
    """Start values are not computed: on the meta device there is nothing to fill, yet torch works it all out."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(build: Callable[[], Built]) -> Built:
    """What `build` builds, on the meta device."""
    with torch.device("meta"), _Unfilled():
        return build()
