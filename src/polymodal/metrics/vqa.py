"""Accuracy of answers to questions about pictures, where annotators differ; and the soft targets that go with it.

Source: Antol et al. 2015, arXiv:1505.00468, and the evaluation code of GT-Vision-Lab/VQA (`vqaEval.py`), by whose
rules answers are written alike. An answer that m of ten annotators gave is worth 0.3, 0.6, 0.9 for m = 1, 2, 3 and 1
from 4 on; min(1, m / 3) is a shortcut, and not this number.
"""

import re
from collections import Counter
from collections.abc import Sequence

ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBERS.split())}
MARKS = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll let's ma'am might've mightn't mightn't've must've mustn't needn't not've
o'clock oughtn't shan't she'd've she's should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one(word: str) -> set[str]:
    """The word without all of its apostrophes, and without each one of them."""
    places = [place for place, letter in enumerate(word) if letter == "'"]
    return {word.replace("'", "")} | {word[:place] + word[place + 1 :] for place in places}


_WHOLE = {written: word for word in CONTRACTIONS.split() for written in _without_one(word)}


def normalize_answer(answer: str) -> str:
    """The answer as the official evaluation writes it, so that "Two dogs." and "2 dogs" are alike.

    Marks go where they touch a space, or where the answer has a comma between digits, and become spaces elsewhere;
    periods go but before a digit; then lower case, digits for zero to ten and none, no articles, apostrophes of
    contractions put back.
    """
    text = re.sub(r"[\n\t]", " ", answer).strip()
    thousands = re.search(r"\d,\d", text) is not None
    plain = text
    for mark in MARKS:  # each is looked for in the answer as it was written
        touches = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if touches or thousands else " ")
    plain = re.sub(r"\.(?!\d)", "", plain)
    words = (NUMBERS.get(word, word) for word in plain.lower().split())
    return " ".join(_WHOLE.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """0 to 1: the mean over annotators of min(1, m / 3), where m of the others gave this answer.

    Where all annotators wrote one and the same, the answers are compared as they are.
    """
    given = Counter(annotators)
    if len(given) > 1:
        answer, given = normalize_answer(answer), Counter(map(normalize_answer, annotators))
    else:
        answer = re.sub(r"[\n\t]", " ", answer).strip()
    return _worth(given[answer], given.total())


def soft_scores(annotators: Sequence[str]) -> dict[str, float]:
    """What each normalized answer of the annotators is worth, 0 to 1: targets for training."""
    given = Counter(map(normalize_answer, annotators))
    return {answer: _worth(count, given.total()) for answer, count in given.items()}


def _worth(count: int, annotators: int) -> float:
    """Those who gave it see count - 1 others that did, the rest see count."""
    if not annotators:
        return 0.0
    seen_by_rest = (annotators - count) * min(1.0, count / 3)
    return (count * min(1.0, max(0, count - 1) / 3) + seen_by_rest) / annotators
