"""A small config of every way to join, and inputs for it. A new member of the union gets a line in `SMALL`."""

from typing import Any, get_args

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from polymodal.fusion import FusionConfig
from polymodal.fusion.missing import Missing
from polymodal.types import Fused, Tokens

KINDS = {member.model_fields["kind"].default for member in get_args(get_args(FusionConfig)[0])}
WIDTHS = {"image": 8, "text": 4, "record": 6}  # of the inputs' vectors and tokens
TWO_INPUTS = {"coattention", "crossmodal", "fuse_text"}  # kinds that join exactly image and text
ENCODER = {"width": 8, "layers": 2, "heads": 2}
SMALL: dict[str, dict[str, Any]] = {
    "late, mean": {"kind": "late", "weights": "mean", "width": 5},
    "late, fixed": {"kind": "late", "weights": "fixed", "fixed": {"image": 1, "text": 2, "record": 0.5}, "width": 5},
    "late, learned": {"kind": "late", "weights": "learned", "width": 5},
    "late, gated": {"kind": "late", "weights": "gated", "width": 5},
    "late, concat": {"kind": "late", "weights": "concat", "width": 5},
    "attention_pool": {"kind": "attention_pool", "width": 5},
    "gated": {"kind": "gated", "width": 5},
    "film": {"kind": "film", "condition": "text", "width": 5},
    "tensor": {"kind": "tensor", "inner": 3, "hidden": 6, "width": 5},
    "tensor, linear": {"kind": "tensor", "inner": 3, "hidden": None, "width": 5},
    "low_rank": {"kind": "low_rank", "rank": 2, "width": 5},
    "aligned": {"kind": "aligned", "inner": {"kind": "gated", "width": 5}, "common": 6, "hidden": 7},
    "spatial, concat": {"kind": "spatial", "grid": 2, "width": 5},
    "spatial, gate": {"kind": "spatial", "join": "gate", "grid": 3, "width": 5},
    "cross_attention": {"kind": "cross_attention", "query": "text"} | ENCODER,
    "bottleneck": {"kind": "bottleneck", "separate": 1, "bottlenecks": 2} | ENCODER,
    "mult": {"kind": "mult", "stream": 4, "layers": 2, "heads": 2, "dropout": 0, "embed_dropout": 0},
    "mult, causal": {"kind": "mult", "stream": 5, "layers": 1, "heads": 1, "causal": True, "dropout": 0}
    | {"embed_dropout": 0},
    "hybrid": {"kind": "hybrid", "early": ENCODER, "late": {"width": 5}},
    "early": {"kind": "early"} | ENCODER,
    "early, mean": {"kind": "early", "pool": "mean", "norm": "post"} | ENCODER,
    "early, pooler": {"kind": "early", "pool": "pooler", "types": False, "input_norm": True} | ENCODER,
    "early, last_word": {"kind": "early", "pool": "last_word"} | ENCODER,
    "coattention": {"kind": "coattention", "width": 8, "heads": 2}
    | {stream: {"layers": [1, 1], "heads": 2} for stream in ("first", "second")},
    "crossmodal": {"kind": "crossmodal"} | ENCODER,
    "fuse_text": {"kind": "fuse_text", "layers": 2, "heads": 2},
}
CONFIGS: dict[str, Any] = {name: TypeAdapter(FusionConfig).validate_python(sizes) for name, sizes in SMALL.items()}
LENGTHS = {"image": (4, 4, 4), "text": (2, 4, 3), "record": (4, 4, 4)}  # real tokens of three rows; 4 = 2 x 2 places


def widths(config: Any) -> dict[str, int]:
    return {name: width for name, width in WIDTHS.items() if name != "record" or config.kind not in TWO_INPUTS}


def built(config: Any, names: dict[str, int] | None = None) -> tuple[Any, Missing]:
    """The fusion, every weight moved so that nothing that starts at zero hides what stands behind it."""
    torch.manual_seed(3)
    model, missing = config.build(names or widths(config)), Missing(names or widths(config))
    with torch.no_grad():
        for parameter in [*model.parameters(), *missing.parameters()]:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval(), missing


def tokens(config: Any, padding: int = 0) -> dict[str, Tokens]:
    """Three rows of each input; texts of two, four and three tokens."""
    draw = torch.Generator().manual_seed(5)
    made = {}
    for name, width in WIDTHS.items():
        lengths = torch.tensor(LENGTHS[name])
        sequence = torch.randn(3, 4, width, generator=draw)
        pooled = torch.randn(3, width, generator=draw)
        sequence = nn.functional.pad(sequence, (0, 0, 0, padding))
        made[name] = Tokens(sequence, torch.arange(4 + padding) < lengths[:, None], pooled)
    return {name: made[name] for name in widths(config)}


def here(given: dict[str, Tokens], absent: dict[str, list[int]] | None = None) -> dict[str, Tensor]:
    """Presence of each input; `absent` names the rows that lack one."""
    rows = len(next(iter(given.values())).pooled)
    lacking = absent or {}
    return {name: torch.tensor([row not in lacking.get(name, []) for row in range(rows)]) for name in given}


def join(
    parts: tuple[Any, Missing], given: dict[str, Tokens], present: dict[str, Tensor] | None = None, maps: bool = False
) -> Fused:
    model, missing = parts
    present = here(given) if present is None else present
    fused: Fused = model(missing(given, present), present, maps=maps)
    return fused
