"""Whether fusion helps: each input knows one bit, the answer is their XOR, the head is linear.

One input alone is at chance, and so is every average of what inputs say on their own. What lets them meet solves it.
"""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from polymodal.fusion import FusionConfig
from polymodal.types import Tokens
from tests.fusion.small import KINDS

WIDTHS = {"image": 16, "text": 8}
ENCODER: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2}
MEETING: dict[str, dict[str, Any]] = {
    "late, concat": {"kind": "late", "weights": "concat", "width": 16},
    "gated": {"kind": "gated", "width": 16},
    "film": {"kind": "film", "width": 16},
    "tensor": {"kind": "tensor", "inner": 4, "hidden": 16, "width": 16},
    "tensor, linear": {"kind": "tensor", "inner": 4, "hidden": None, "width": 16},
    "low_rank": {"kind": "low_rank", "rank": 4, "width": 16},
    "aligned": {"kind": "aligned", "inner": {"kind": "tensor", "inner": 4, "width": 16}, "common": 16},
    "spatial, concat": {"kind": "spatial", "grid": 2, "width": 16},
    "cross_attention": {"kind": "cross_attention"} | ENCODER,
    "bottleneck": {"kind": "bottleneck", "bottlenecks": 2} | ENCODER,
    "mult": {"kind": "mult", "stream": 8, "layers": 1, "heads": 2, "dropout": 0, "embed_dropout": 0},
    "hybrid": {"kind": "hybrid", "early": ENCODER, "late": {"width": 16}},
    "early": {"kind": "early"} | ENCODER,
    "coattention": {"kind": "coattention", "width": 16, "heads": 2}
    | {stream: {"layers": [1], "heads": 2} for stream in ("first", "second")},
    "crossmodal": {"kind": "crossmodal"} | ENCODER,
    "fuse_text": {"kind": "fuse_text", "layers": 1, "heads": 2},
}
APART: dict[str, dict[str, Any]] = {
    "late, mean": {"kind": "late", "weights": "mean", "width": 16},
    "late, fixed": {"kind": "late", "weights": "fixed", "fixed": {"image": 1, "text": 2}, "width": 16},
    "late, learned": {"kind": "late", "weights": "learned", "width": 16},
}
CHOOSING = {"attention_pool"}  # weighs inputs by one another (as the gate of "spatial" does), which is neither


def rows(count: int, seed: int) -> tuple[dict[str, Tokens], Tensor]:
    """Tokens in whose first two features the input's bit stands as a sign, the rest noise; and the XOR of the bits."""
    draw = torch.Generator().manual_seed(seed)
    given, bits = {}, []
    for name, width in WIDTHS.items():
        bit = torch.randint(2, (count,), generator=draw)
        sequence = 0.3 * torch.randn(count, 4, width, generator=draw)
        sequence[:, :, :2] += (2 * bit - 1)[:, None, None]
        given[name] = Tokens(sequence, torch.ones(count, 4).bool(), sequence.mean(1))
        bits.append(bit)
    return given, (bits[0] ^ bits[1]).float()


def accuracy(settings: dict[str, Any], without: str | None = None, steps: int = 300, rate: float = 3e-3) -> float:
    """Of held-out rows, 0 to 1, when nearly all are right or after all steps.

    `without`: an input that is absent in every row.
    """
    torch.manual_seed(0)
    fusion = TypeAdapter(FusionConfig).validate_python(settings).build(WIDTHS)
    head = nn.Linear(fusion.width, 1)
    optimizer = torch.optim.AdamW([*fusion.parameters(), *head.parameters()], rate)

    def logits(given: dict[str, Tokens]) -> Tensor:
        count = len(given["image"].pooled)
        present = {name: torch.full((count,), name != without) for name in given}
        if without is not None:
            given = given | {without: Tokens(*(torch.zeros_like(part) for part in given[without]))}
            given[without].mask[:, 0] = True
        scores: Tensor = head(fusion(given, present).pooled)[:, 0]
        return scores

    test, wanted = rows(500, 10**6)
    right = 0.0
    for step in range(steps):
        given, answer = rows(64, step)
        loss = binary_cross_entropy_with_logits(logits(given), answer)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(fusion.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 19:
            with torch.no_grad():
                right = ((logits(test) > 0) == wanted.bool()).float().mean().item()
            if right > 0.995:
                break
    return right


def test_every_kind_is_here() -> None:
    assert {settings["kind"] for settings in (MEETING | APART).values()} | CHOOSING == KINDS


@pytest.mark.parametrize("settings", MEETING.values(), ids=MEETING.keys())
def test_where_inputs_meet_the_answer_is_found(settings: dict[str, Any]) -> None:
    assert accuracy(settings) >= 0.99


@pytest.mark.parametrize("settings", APART.values(), ids=APART.keys())
def test_averages_of_what_each_says_alone_stay_at_chance(settings: dict[str, Any]) -> None:
    assert accuracy(settings, steps=150) <= 0.6


@pytest.mark.parametrize("without", WIDTHS)
def test_one_input_alone_stays_at_chance(without: str) -> None:
    assert accuracy(MEETING["tensor"], without, steps=150) <= 0.6
