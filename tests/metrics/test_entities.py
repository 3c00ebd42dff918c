"""Entities of BIO tags: cases worked out by hand, some of them from seqeval's README."""

import pytest

from polymodal.metrics.entities import Entity, entities, entity_report, is_bio


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-PER I-PER O", [(1, 2, "PER")]),
        ("B-PER I-PER B-PER", [(0, 1, "PER"), (2, 2, "PER")]),
        ("I-PER I-PER O I-LOC", [(0, 1, "PER"), (3, 3, "LOC")]),  # an I alone begins one
        ("B-PER I-LOC I-LOC", [(0, 0, "PER"), (1, 2, "LOC")]),
        ("B-人名 I-人名 O", [(0, 1, "人名")]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities(tags: str, found: list[tuple[int, int, str]]) -> None:
    assert entities([tags.split()]) == {Entity(0, *one) for one in found}


def test_the_example_of_seqeval() -> None:
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    said = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = entity_report(true, said)
    assert (found["precision"], found["recall"], found["f1"]) == (0.5, 0.5, 0.5)
    assert found["entities"] == 2
    assert found["per_type"] == [
        {"type": "MISC", "precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 1},
        {"type": "PER", "precision": 1.0, "recall": 1.0, "f1": 1.0, "entities": 1},
    ]


def test_a_sentence_ends_an_entity() -> None:
    assert len(entities([["B-PER"], ["I-PER"]])) == 2


def test_nothing_there_and_nothing_found() -> None:
    assert entity_report([["O"]], [["O"]])["f1"] is None
    missed = entity_report([["B-PER"]], [["O"]])
    assert (missed["precision"], missed["recall"], missed["f1"]) == (0.0, 0.0, 0.0)


def test_which_classes_are_tags() -> None:
    assert is_bio(["O", "B-PER", "I-PER"])
    assert not is_bio(["O", "NOUN"])
    assert not is_bio(["B-PER", "I-PER"])
    assert not is_bio(["O"])
