import pytest

from polymodal.engine.templates import CHINESE, ENGLISH, fill, templates_for


@pytest.mark.parametrize("label", ["猫", "一只 cat", "㐀", "𠀀"])
def test_a_chinese_letter_asks_for_chinese_sentences(label: str) -> None:
    assert templates_for(label) == CHINESE


@pytest.mark.parametrize("label", ["cat", "Straße", "кот", "😀", "100%"])
def test_other_labels_ask_for_english_ones(label: str) -> None:
    assert templates_for(label) == ENGLISH


def test_the_english_list_is_the_known_one_of_seven() -> None:
    assert len(ENGLISH) == 7
    assert "itap of a {}." in ENGLISH


def test_braces_of_a_label_are_its_own() -> None:
    assert fill("{x}", ["a {}", "{} {}"]) == ["a {x}", "{x} {x}"]


def test_every_sentence_of_ours_has_one_place_for_the_label() -> None:
    assert all(template.count("{}") == 1 for template in (*ENGLISH, *CHINESE))
    assert len(set(ENGLISH) | set(CHINESE)) == len(ENGLISH) + len(CHINESE)
