"""Named entities in tags of BIO: whole ones count, not tokens.

An entity is right when its bounds and its type are. It begins at B, and, as seqeval has it by default, also at an I
that goes on with nothing of its type.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Entity(NamedTuple):
    sentence: int
    first: int  # token
    last: int  # token
    type: str


def is_bio(classes: Iterable[str]) -> bool:
    """Whether these are BIO tags: "O", and others that begin with "B-" or "I-"."""
    classes = set(classes)
    return "O" in classes and len(classes) > 1 and all(tag == "O" or tag[:2] in ("B-", "I-") for tag in classes)


def entities(sentences: Sequence[Sequence[str]]) -> set[Entity]:
    """The entities of tagged sentences."""
    found = set()
    for number, tags in enumerate(sentences):
        first, before = 0, ""
        for place, tag in enumerate([*tags, "O"]):
            kind = "" if tag == "O" else tag[2:]
            if before and (kind != before or tag.startswith("B-")):
                found.add(Entity(number, first, place - 1, before))
            if kind and (kind != before or tag.startswith("B-")):
                first = place
            before = kind
    return found


def entity_report(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 over all entities, 0 to 1, and of each type.

    They are 0 where nothing was found, as in seqeval; F1 is None where there is no entity at all, true or found.

    Args:
        true: tags of each sentence.
        predicted: as many, and as long.
    """
    wanted, found = entities(true), entities(predicted)
    right = Counter(entity.type for entity in wanted & found)
    there, said = Counter(entity.type for entity in wanted), Counter(entity.type for entity in found)
    return {
        **_scores(len(wanted & found), len(wanted), len(found)),
        "entities": len(wanted),
        "per_type": [
            {"type": kind, **_scores(right[kind], there[kind], said[kind]), "entities": there[kind]}
            for kind in sorted(there | said)
        ],
    }


def _scores(right: int, wanted: int, found: int) -> dict[str, float | None]:
    return {
        "precision": right / found if found else 0.0,
        "recall": right / wanted if wanted else 0.0,
        "f1": 2 * right / (wanted + found) if wanted + found else None,
    }
