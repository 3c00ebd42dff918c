"""What a comparison trains: one model for each fusion and one for each input alone, alike in everything else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from polymodal.data.manifest import Manifest
from polymodal.errors import ConfigError, PolymodalError
from polymodal.features import Features
from polymodal.fusion import FusionConfig
from polymodal.fusion.late import LateConfig
from polymodal.layers.skeleton import skeleton
from polymodal.models.heads import HeadsConfig
from polymodal.models.multimodal import MultimodalConfig
from polymodal.objectives.modality import ModalityConfig
from polymodal.text import Tokenizer
from polymodal.train.console import say
from polymodal.train.multimodal import MultimodalPrepared, MultimodalRecipe, prepare_multimodal, read_recipe
from polymodal.train.multimodal.choose import sizes
from polymodal.train.multimodal.fusions import MAKERS, fusion_named
from polymodal.train.multimodal.prepare import Rows

# Keys of a recipe that the comparison sets itself, and what to write instead.
OWN = {
    "data.table": "the table is named first",
    "model.fusion": "name fusions by --fusion",
    "model.start": "its fusion is trained already; start single encoders by model.init.NAME",
    "name": "runs are named after their fusions",
    "output": "set --out",
    "trainer.epochs": "set --epochs",
    "trainer.steps": "set --steps",
}


class Contender(NamedTuple):
    name: str  # a fusion's, or "text alone"
    kind: Literal["fusion", "single"]
    inputs: tuple[str, ...]
    recipe: MultimodalRecipe | None  # None: it is not possible
    parameters: int = 0
    reason: str = ""  # why it is not possible


@dataclass(frozen=True)
class Ground:
    """The common ground of a comparison."""

    recipe: MultimodalRecipe  # resolved; of the model that all others are varied from
    rows: Rows
    features: Features
    tokenizer: Tokenizer | None
    state: Mapping[str, Any]  # of the table, to tell whether it has changed
    faults: int  # cells that count as empty
    contenders: tuple[Contender, ...]

    @property
    def held_out(self) -> tuple[Manifest, str]:
        """The rows that all are measured on, and their name.

        Raises:
            ConfigError: there are none.
        """
        if self.rows.test is not None:
            return self.rows.test, "test"
        if self.rows.val is None:
            raise ConfigError("compare: no rows are held out to measure on; set data.test_fraction, or data.test")
        return self.rows.val, "val"


def ground(table: str | Path, targets: Sequence[str], fusions: Sequence[str], overrides: Sequence[str]) -> Ground:
    """The models to compare on a table.

    Raises:
        ConfigError: a name or key is wrong, there is one input only, or none of the fusions can read the inputs.
        DataError: the table cannot be used.
    """
    for name in fusions:
        if name not in MAKERS:
            fusion_named(name, {}, 0)  # raises, with the nearest name
    base = prepare_multimodal(_recipe(table, targets, overrides), say)
    inputs = list(base.features.inputs)
    if len(inputs) < 2:
        columns = base.recipe.data.inputs or {}
        listed = ", ".join(columns[inputs[0]].columns) if inputs[0] in columns else inputs[0]
        raise ConfigError(
            f"compare: wanted a table with at least 2 inputs, got one, {inputs[0]} ({listed}); divide its columns by "
            "data.inputs.NAME.kind=... data.inputs.NAME.columns=[...], or train it alone: `polymodal fit`"
        )
    joined = [_fusion(base, name) for name in dict.fromkeys(fusions)]
    if not any(one.recipe for one in joined):
        whys = "\n".join(f"  {one.reason}" for one in joined)
        fitting = [name for name in MAKERS if _fusion(base, name).recipe is not None]
        raise ConfigError(f"compare: none of these fusions is possible; these are: {', '.join(fitting)}\n{whys}")
    return Ground(
        base.recipe,
        base.rows,
        base.features,
        base.tokenizer,
        base.state(),
        len(base.faults),
        (*(_single(base, name) for name in inputs), *joined),
    )


def prepare(common: Ground, contender: Contender) -> MultimodalPrepared:
    """Everything that the contender's training needs, the common tokenizer included."""
    assert contender.recipe is not None
    reads_text = any(common.features.inputs[name].kind == "text" for name in contender.inputs)
    return prepare_multimodal(contender.recipe, lambda message: None, common.tokenizer if reads_text else None)


def _recipe(table: str | Path, targets: Sequence[str], overrides: Sequence[str]) -> MultimodalRecipe:
    for key in (assignment.partition("=")[0] for assignment in overrides):
        for own, instead in OWN.items():
            if key == own or key.startswith(f"{own}."):
                raise ConfigError(f"compare: {key} cannot be set, it is what the comparison decides: {instead}")
    plain = {
        "model": {"kind": "multimodal"},
        "data": {"table": str(table), "targets": {name: {} for name in targets}},
    }
    recipe = read_recipe(plain, overrides)
    if not isinstance(recipe, MultimodalRecipe):
        raise ConfigError("compare: model.kind must stay multimodal")
    # Whichever fusion: this one builds with any inputs, and only what stands before it is taken over.
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"fusion": LateConfig(width=8)})})


def _fusion(base: MultimodalPrepared, name: str) -> Contender:
    inputs = tuple(base.features.inputs)
    try:
        config = fusion_named(name, base.model.config.encoders, len(base.rows.train))
        recipe = _varied(base.recipe, name, inputs, config)
        return Contender(name, "fusion", inputs, recipe, _parameters(recipe))
    except PolymodalError as error:
        return Contender(name, "fusion", inputs, None, reason=str(error))


def _single(base: MultimodalPrepared, name: str) -> Contender:
    title = f"{name} alone"
    try:
        width, _, _ = sizes(len(base.rows.train))
        recipe = _varied(base.recipe, title, (name,), LateConfig(weights="mean", width=width))
        return Contender(title, "single", (name,), recipe, _parameters(recipe))
    except PolymodalError as error:
        return Contender(title, "single", (name,), None, reason=str(error))


def _varied(recipe: MultimodalRecipe, name: str, inputs: tuple[str, ...], fusion: FusionConfig) -> MultimodalRecipe:
    """The recipe with these inputs only, joined by this fusion."""
    model, data = recipe.model, recipe.data
    encoders, columns = model.encoders or {}, data.inputs or {}
    objectives = [*recipe.objectives, *([ModalityConfig()] if fusion.kind == "aligned" else [])]
    return recipe.model_copy(
        update={
            "name": name,
            "objectives": objectives,
            "model": model.model_copy(
                update={
                    "fusion": fusion,
                    "encoders": {one: encoders[one] for one in inputs},
                    "init": {one: source for one, source in model.init.items() if one in inputs},
                }
            ),
            "data": data.model_copy(update={"inputs": {one: columns[one] for one in inputs}}),
        }
    )


def _parameters(recipe: MultimodalRecipe) -> int:
    """How many weights the model has.

    Raises:
        ConfigError: its parts do not fit each other.
    """
    model = recipe.model
    sharing = {"sharing": model.sharing} if model.sharing else {}
    config = MultimodalConfig(
        encoders=model.encoders or {},
        fusion=model.fusion or LateConfig(),
        heads=HeadsConfig(targets=model.heads, **sharing),
    )
    return sum(weight.numel() for weight in skeleton(config.build).parameters())
