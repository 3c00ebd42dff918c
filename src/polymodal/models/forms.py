"""What compression has made of a model's structure, as data: it travels in the artifact beside the config.

`changes` are carried out on the skeleton that `config.build()` gives, in their order; a name means the module that
bears it at that moment. `stored` says which weights lie in the file in fewer bits than they have when the model runs.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.encoders.clip_resnet import GridAttentionPool
from polymodal.errors import ArtifactError
from polymodal.fusion.coattention import Side
from polymodal.layers.attention import Attention, CrossAttention
from polymodal.layers.compressed import (
    Int8Linear,
    LowRankLinear,
    from_integers,
    integers,
    packed_shape,
    scale_shape,
)

Wanted = TypeVar("Wanted", bound=nn.Module)


class LinearForm(Config):
    """A linear layer of other sizes."""

    kind: Literal["linear"] = "linear"
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)

    def build(self, module: nn.Module) -> nn.Module:
        linear = _a(nn.Linear, module)
        return nn.Linear(self.inputs, self.outputs, bias=linear.bias is not None, device=linear.weight.device)


class LowRankForm(Config):
    """A linear layer as the product of two."""

    kind: Literal["low_rank"] = "low_rank"
    rank: int = Field(ge=1)

    def build(self, module: nn.Module) -> nn.Module:
        linear = _a(nn.Linear, module)
        sizes = linear.in_features, linear.out_features, self.rank
        return LowRankLinear(*sizes, bias=linear.bias is not None, device=linear.weight.device)


class Int8Form(Config):
    """A linear layer that multiplies integers; `static`: the range of its input is known beforehand."""

    kind: Literal["int8"] = "int8"
    static: bool = False

    def build(self, module: nn.Module) -> nn.Module:
        linear = _a(nn.Linear, module)
        sizes = linear.in_features, linear.out_features
        return Int8Linear(*sizes, bias=linear.bias is not None, static=self.static, device=linear.weight.device)


class HeadsForm(Config):
    """An attention with fewer heads, each as wide as before."""

    kind: Literal["heads"] = "heads"
    heads: int = Field(ge=1)

    def build(self, module: nn.Module) -> nn.Module:
        """The module itself, its projections replaced."""
        if not isinstance(module, Attention | CrossAttention | Side | GridAttentionPool):
            raise TypeError(f"wanted an attention, got {type(module).__name__}")
        last = "c_proj" if isinstance(module, GridAttentionPool) else "out"
        out = module.get_submodule(last)
        assert isinstance(out, nn.Linear)
        inner = out.in_features // module.heads * self.heads
        for name in ("qkv", "q", "kv", "q_proj", "k_proj", "v_proj"):
            if (old := getattr(module, name, None)) is not None:
                parts = old.out_features // out.in_features
                setattr(module, name, LinearForm(inputs=old.in_features, outputs=parts * inner).build(old))
        setattr(module, last, LinearForm(inputs=inner, outputs=out.out_features).build(out))
        module.heads = self.heads
        return module


class RowsForm(Config):
    """An embedding of other length."""

    kind: Literal["rows"] = "rows"
    rows: int = Field(ge=1)

    def build(self, module: nn.Module) -> nn.Module:
        table = _a(nn.Embedding, module)
        return nn.Embedding(self.rows, table.embedding_dim, device=table.weight.device)


class LeftOutForm(Config):
    """A layer of a stack that is no longer there; those behind it move up and take its number."""

    kind: Literal["left_out"] = "left_out"


Form = Annotated[
    LinearForm | LowRankForm | Int8Form | HeadsForm | RowsForm | LeftOutForm,
    Field(discriminator="kind"),
]


class Change(Config):
    module: str  # dotted name
    form: Form


class Bfloat16Storage(Config):
    """16 bits a weight; widened when it is read."""

    kind: Literal["bfloat16"] = "bfloat16"

    def pack(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        return {name: weight.bfloat16()}

    def shapes(self, name: str, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {name: tuple(shape)}

    def unpack(self, name: str, weights: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        return weights[name].float()


class IntegerStorage(Config):
    """8 or 4 bits a weight and a scale for each row, or each `group` weights of a row; widened when it is read."""

    kind: Literal["integers"] = "integers"
    bits: Literal[4, 8] = 8
    group: int | None = Field(None, ge=8)

    def pack(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        values, scale = integers(weight, self.bits, self.group)
        return {name: values, f"{name}.scale": scale}

    def shapes(self, name: str, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {name: packed_shape(shape, self.bits), f"{name}.scale": scale_shape(shape, self.group)}

    def unpack(self, name: str, weights: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        return from_integers(weights[name], weights[f"{name}.scale"], shape, self.bits, self.group)


Storage = Annotated[Bfloat16Storage | IntegerStorage, Field(discriminator="kind")]


class Forms(Config):
    changes: tuple[Change, ...] = ()
    stored: dict[str, Storage] = Field({})  # by the weight's name in the state dict

    def changed(self, module: str, form: Form) -> "Forms":
        """These and one more change."""
        return self.model_copy(update={"changes": (*self.changes, Change(module=module, form=form))})

    def storing(self, stored: Mapping[str, Storage]) -> "Forms":
        return self.model_copy(update={"stored": {**self.stored, **stored}})

    def as_they_are(self, names: Collection[str]) -> "Forms":
        """These, with the named weights stored in the bits that they run with."""
        return self.model_copy(update={"stored": {name: one for name, one in self.stored.items() if name not in names}})

    def pack(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict as it lies in the file."""
        packed: dict[str, Tensor] = {}
        for name, weight in weights.items():
            packed |= self.stored[name].pack(name, weight) if name in self.stored else {name: weight}
        return packed

    def shapes(self, wanted: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """name -> shape of everything in the file of a model whose state dict is `wanted`."""
        found: dict[str, tuple[int, ...]] = {}
        for name, weight in wanted.items():
            store = self.stored.get(name)
            found |= {name: tuple(weight.shape)} if store is None else store.shapes(name, weight.shape)
        return found

    def unpack(self, packed: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of what lies in a file that has the `shapes`."""
        return {
            name: self.stored[name].unpack(name, packed, weight.shape) if name in self.stored else packed[name]
            for name, weight in wanted.items()
        }


def apply_forms(model: nn.Module, forms: Forms) -> None:
    """Give the model the structure that the forms say, in place; weights of what is new are not set.

    Raises:
        ArtifactError: a form does not fit the module of its name, or there is none.
    """
    for change in forms.changes:
        try:
            put(model, change.module, change.form)
        except (AttributeError, TypeError) as error:
            raise ArtifactError(f'forms: "{change.module}" cannot become {change.form.kind}: {error}') from None
    if unknown := forms.stored.keys() - model.state_dict().keys():
        raise ArtifactError(f"forms: stored weights that the model does not have: {', '.join(sorted(unknown)[:5])}")


def put(model: nn.Module, name: str, form: Form) -> nn.Module | None:
    """Give one module the form, in place; the new module, whose weights are not set (None: it is left out).

    Raises:
        AttributeError: there is no module of this name.
        TypeError: it cannot have such a form.
    """
    module = model.get_submodule(name)
    parent_name, _, last = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    if isinstance(form, LeftOutForm):
        del _a(nn.ModuleList, parent)[int(last)]
        return None
    new = form.build(module)
    setattr(parent, last, new.train(module.training))
    return new


def _a(kind: type[Wanted], module: nn.Module) -> Wanted:
    if not isinstance(module, kind):
        raise TypeError(f"wanted a {kind.__name__}, got {type(module).__name__}")
    return module
