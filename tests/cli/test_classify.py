from pathlib import Path

import pytest

import polymodal as pm
from tests.cli.running import Run


@pytest.fixture
def picture(table: Path) -> Path:
    return table.parent / "0.png"


def test_pictures_are_named_as_the_engine_names_them(run: Run, saved: Path, picture: Path) -> None:
    other = picture.with_name("1.png")
    done = run("classify", saved, picture, other, "--labels", "dog, cat,tree", "-k", 2, "--json")
    assert (done.code, done.err) == (0, "")
    expected = pm.load(saved).classify([picture, other], ["dog", "cat", "tree"])
    assert done.json() == {
        "images": [
            {
                "image": str(file),
                "labels": [
                    {"label": guess.label, "probability": pytest.approx(guess.probability, abs=1e-6)}
                    for guess in guesses[:2]
                ],
            }
            for file, guesses in zip((picture, other), expected, strict=True)
        ],
        "faults": [],
    }


def test_chinese_labels_and_commas_are_as_good(run: Run, saved: Path, picture: Path) -> None:
    done = run("classify", saved, picture, "--labels", "狗，猫、树", "--json")
    (answer,) = done.json()["images"]
    assert {guess["label"] for guess in answer["labels"]} == {"狗", "猫", "树"}
    assert sum(guess["probability"] for guess in answer["labels"]) == pytest.approx(1)


def test_labels_may_stand_in_a_file(run: Run, saved: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\ufeffdog\n\n polar bear \r\ndog\n", encoding="utf-8")
    done = run("classify", saved, picture, "--labels-file", tmp_path / "labels.txt", "--json")
    assert {guess["label"] for guess in done.json()["images"][0]["labels"]} == {"dog", "polar bear"}


def test_templates_can_be_given(run: Run, saved: Path, picture: Path) -> None:
    words = ("classify", saved, picture, "--labels", "dog,cat", "--json")
    given = run(*words, "--template", "a {} at night", "--template", "{}").json()["images"][0]["labels"]
    expected = pm.load(saved).classify(picture, ["dog", "cat"], templates=["a {} at night", "{}"])
    assert [(guess["label"], guess["probability"]) for guess in given] == [
        (guess.label, pytest.approx(guess.probability, abs=1e-6)) for guess in expected
    ]


def test_the_table_shows_percents(run: Run, saved: Path, picture: Path) -> None:
    done = run("classify", saved, picture, "--labels", "dog")
    assert (done.code, done.err) == (0, "")
    assert str(picture) in done.out
    assert "100.0%" in done.out


def test_one_bad_picture_does_not_hide_the_others(run: Run, saved: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    done = run("classify", saved, tmp_path / "empty.png", picture, "--labels", "dog,cat", "--json")
    assert done.code == 1
    assert [answer["image"] for answer in done.json()["images"]] == [str(picture)]
    (fault,) = done.json()["faults"]
    assert fault["image"] == str(tmp_path / "empty.png")
    assert "is empty (0 bytes)" in fault["reason"]
    spoken = run("classify", saved, tmp_path / "empty.png", picture, "--labels", "dog,cat")
    assert spoken.code == 1
    assert f"not read: {tmp_path}/empty.png: " in spoken.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), 'classify: give the names by --labels "cat,dog" or by --labels-file, one of the two'),
        (("--labels", "cat", "--labels-file", "x"), "one of the two"),
        (("--labels", " , ，"), '--labels: wanted names with commas between them, got " , ，"'),
        (("--labels-file", "no.txt"), "--labels-file no.txt: cannot be read (No such file or directory)"),
        (("--labels-file", "empty.txt"), "--labels-file empty.txt: wanted one name a line, got an empty file"),
        (("--labels-file", "latin.txt"), "--labels-file latin.txt: is not UTF-8 text; save it as UTF-8"),
        (("--labels", "cat", "--template", "a photo"), 'template "a photo" has no place for the label'),
        (("--labels", "cat", "-k", "0"), "Invalid value for '-k'"),
    ],
)
def test_labels_that_make_no_sense_are_refused(
    run: Run,
    saved: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("latin.txt").write_bytes("café".encode("latin-1"))
    done = run("classify", saved, picture, *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_damaged_artifact_is_refused_with_the_file_and_the_remedy(
    run: Run, saved: Path, picture: Path, tmp_path: Path
) -> None:
    import shutil

    copy = shutil.copytree(saved, tmp_path / "copy")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-5] ^= 64
    (copy / "model.safetensors").write_bytes(data)
    done = run("classify", copy, picture, "--labels", "dog")
    assert done.code == 1
    assert f'artifact "{copy}": model.safetensors was changed or cut short' in done.err
    assert "copy the artifact again from where it came from" in done.err
