import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import Run


def test_a_text_is_answered_with_pictures_as_a_table(run: Run, saved: Path, table: Path) -> None:
    done = run("query", saved, table, "--text", "a dog on the beach", "-k", 2)
    assert (done.code, done.err) == (0, "")
    lines = [line for line in done.out.splitlines() if ".png" in line]
    assert len(lines) == 2
    assert "rank" in done.out
    assert "score" in done.out


def test_json_is_all_there_is_on_stdout(run: Run, saved: Path, table: Path) -> None:
    done = run("query", saved, table, "--text", "又一只狗", "--for", "texts", "--json", "-k", 3)
    assert (done.code, done.err) == (0, "")
    answer = done.json()
    assert {key: answer[key] for key in ("for", "searched", "left_out")} == {
        "for": "texts",
        "searched": 6,
        "left_out": 0,
    }
    first = answer["hits"][0]
    assert first == {
        "rank": 1,
        "score": pytest.approx(1, abs=1e-6),
        "row": 3,
        "image": "2.png",
        "texts": ["又一只狗"],
    }
    assert "又一只狗" in done.out  # not \u53c8
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]


def test_a_picture_is_answered_with_pictures_like_it(run: Run, saved: Path, table: Path) -> None:
    done = run("query", saved, table, "--image", table.parent / "4.png", "--json", "-k", 1)
    (hit,) = done.json()["hits"]
    assert (hit["row"], hit["score"]) == (5, pytest.approx(1, abs=1e-6))


def test_rows_left_out_are_told_on_stderr(run: Run, saved: Path, table: Path) -> None:
    (table.parent / "1.png").write_bytes(b"")
    done = run("query", saved, table, "--text", "a dog", "--json")
    assert done.code == 0
    assert done.json()["left_out"] == 1
    assert f"left out of {table}: 1" in done.err
    assert "row 2, image: " in done.err
    assert "is empty (0 bytes)" in done.err


def test_without_pictures_texts_are_searched_unless_pictures_were_asked_for(
    run: Run, saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.csv").write_text("caption,price\na dog on the beach,1\na red sofa,2\n")
    done = run("query", saved, tmp_path / "texts.csv", "--text", "a red sofa", "--json")
    assert done.json()["for"] == "texts"
    assert done.json()["hits"][0]["row"] == 2
    done = run("query", saved, tmp_path / "texts.csv", "--text", "a dog", "--for", "images")
    assert done.code == 1
    assert "texts.csv: no column holds pictures, so there are none to find; it has: caption (text), price" in done.err


@pytest.mark.parametrize(
    ("question", "code", "message"),
    [
        ((), 2, 'query: give the question by --text "a dog" or by --image dog.jpg, one of the two'),
        (("--text", "a", "--image", "b.png"), 2, "one of the two"),
        (("--text", ""), 1, "query: the question cannot be used: the text is empty"),
        (("--image", "no.png"), 1, "no.png: there is no such file"),
        (("--text", "a dog", "-k", "0"), 2, "Invalid value for '-k'"),
        (("--text", "a dog", "--for", "sounds"), 2, "sounds"),
        (("--text", "a dog", "--split", "test"), 1, 'no column says what is in split "test"'),
        (("--text", "a dog", "--image-column", "imgae"), 1, "imgae"),
        (("--text", "a dog", "--device", "cuda:7"), 2, 'device "cuda:7" cannot be used'),
    ],
)
def test_a_question_put_wrongly_says_what_is_missing(
    run: Run, saved: Path, table: Path, question: tuple[str, ...], code: int, message: str
) -> None:
    done = run("query", saved, table, *question)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_an_unreadable_picture_as_the_question_is_named(run: Run, saved: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>not found</html>")
    done = run("query", saved, table, "--image", tmp_path / "page.png")
    assert done.code == 1
    assert f"query: the question cannot be used: {tmp_path}/page.png: is not a picture" in done.err
    assert "it looks like a web page" in done.err


def test_a_missing_table_and_a_missing_artifact_are_named(run: Run, saved: Path, table: Path) -> None:
    done = run("query", saved, "no.csv", "--text", "a dog")
    assert done.code == 1
    assert "no.csv" in done.err
    done = run("query", saved.parent / "tyni", table, "--text", "a dog")
    assert done.code == 1
    assert f'tyni": no such folder; did you mean "{saved}"?' in done.err


def test_it_runs_as_a_process_without_the_training_side(saved: Path, table: Path) -> None:
    code = f"""
import sys
sys.argv = ["polymodal", "query", {str(saved)!r}, {str(table)!r}, "--text", "a dog", "--json"]
from polymodal.cli import main
try:
    main()
finally:
    wrong = [name for name in sys.modules if "lightning" in name or name.startswith("polymodal.train")]
    assert not wrong, wrong
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert '"searched": 5' in done.stdout


def test_the_answers_can_be_drawn(run: Run, saved: Path, table: Path) -> None:
    sheet = table.parent / "answers.png"
    done = run("query", saved, table, "--text", "一只狗", "--sheet", sheet, "--json")
    assert done.code == 0
    assert done.err == f"drawn: {sheet}\n"
    assert sheet.read_bytes().startswith(b"\x89PNG")
    refused = run("query", saved, table, "--text", "a dog", "--sheet", "answers.gif")
    assert (refused.code, refused.out) == (2, "")
    assert "--sheet answers.gif: wanted a name that ends in .png" in refused.err
