from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from polymodal.config import Config, override, read_yaml, write_yaml
from polymodal.errors import ConfigError


class Square(Config):
    kind: Literal["square"] = "square"
    side: int = Field(1, ge=1)


class Circle(Config):
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


class Drawing(Config):
    shape: Annotated[Square | Circle, Field(discriminator="kind")] = Square()
    layers: tuple[Square, ...] = ()
    title: str


def parse(**data: object) -> Drawing:
    return Drawing.parse({"title": "a", **data}, where="a.yaml")


def test_a_config_comes_back_equal_from_its_plain_values() -> None:
    drawing = parse(shape={"kind": "circle", "radius": 2}, layers=[{"side": 3}])
    assert Drawing.parse(drawing.to_dict(), where="again") == drawing


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().title = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"titel": 1}, 'a.yaml: unknown key "titel"; did you mean "title"?'),
        ({"zzz": 1}, 'a.yaml: unknown key "zzz"; known: layers, shape, title'),
        ({"shape": {"kind": "square", "sied": 2}}, 'unknown key "shape.sied"; did you mean "side"?'),
        ({"shape": {"kind": "circel"}}, 'shape.kind "circel" is not known; did you mean "circle"?'),
        ({"shape": {"side": 2}}, 'shape: "kind" is missing; known: square, circle'),
        ({"shape": {"kind": "square", "side": 0}}, "shape.side: Input should be greater than or equal to 1, got 0"),
        ({"layers": [{}, {"side": "x"}]}, "layers.1.side: Input should be a valid integer"),
        ({"layers": [{"sidee": 1}]}, 'unknown key "layers.0.sidee"; did you mean "side"?'),
    ],
)
def test_a_fault_is_named_by_its_dotted_path(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(**data)
    assert message in str(error.value)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Drawing.parse({"titel": 1, "shape": {"kind": "square", "side": 0}}, where="a.yaml")
    assert [line.split(": ", 1)[1].split('"')[0] for line in str(error.value).splitlines()] == [
        "shape.side: Input should be greater than or equal to 1, got 0",
        "",  # "title" is missing
        "unknown key ",
    ]


def test_yaml_comes_back(tmp_path: Path) -> None:
    data = {"title": "猫", "layers": [{"side": 2}], "shape": None}
    write_yaml(tmp_path / "a.yaml", data)
    assert read_yaml(tmp_path / "a.yaml") == data
    assert "猫" in (tmp_path / "a.yaml").read_text(encoding="utf-8")


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"a: [1", "is not YAML"),
        (b"- a\n- b\n", "wanted `key: value` lines, got a list"),
        (b"a: \xff\xfe", "is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, written: bytes, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(written)
    with pytest.raises(ConfigError) as error:
        read_yaml(file)
    assert str(error.value).startswith(f"{file}: {message}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("a=3", 3),
        ("a=1e-3", 0.001),
        ("a=true", True),
        ("a=null", None),
        ("a=[x, 2]", ["x", 2]),
        ("a=x=y", "x=y"),
        ("a=", None),
    ],
)
def test_values_of_overrides_are_yaml(assignment: str, value: object) -> None:
    changed = override({}, [assignment])
    assert changed == {"a": value}
    assert type(changed["a"]) is type(value)


def test_overrides_lead_into_mappings_and_lists_and_leave_the_given_data_alone() -> None:
    data = {"a": {"b": 1}, "c": [{"d": 1}, {"d": 2}]}
    changed = override(data, ["a.b=5", "c.1.d=6", "new.deep=7"])
    assert changed == {"a": {"b": 5}, "c": [{"d": 1}, {"d": 6}], "new": {"deep": 7}}
    assert data == {"a": {"b": 1}, "c": [{"d": 1}, {"d": 2}]}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("a", '"a": wanted key=value, for instance trainer.epochs=3'),
        ("=3", '"=3": wanted key=value'),
        ("a.b=3", '"a.b=3": "a" is a value and has no keys below it'),
        ("c.2.d=3", '"c.2.d=3": wanted a place from 0 to 1 in the list, got "2"'),
        ("c.first.d=3", 'wanted a place from 0 to 1 in the list, got "first"'),
        ("c.7=3", 'wanted a place from 0 to 1 in the list, got "7"'),
        ("a=[1", '"[1" is not a YAML value'),
    ],
)
def test_an_override_that_leads_nowhere_says_why(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        override({"a": 1, "c": [{}, {}]}, [assignment])
    assert message in str(error.value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_survives_an_override(number: float) -> None:
    assert override({}, [f"a={number!r}"])["a"] == number
