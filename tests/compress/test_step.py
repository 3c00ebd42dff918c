import pytest

from polymodal.compress.quantize import Bfloat16, Int4, Int8
from polymodal.compress.step import STEPS, parse_steps
from polymodal.errors import ConfigError


def test_a_chain_is_read_in_its_order() -> None:
    steps = parse_steps("int8:activations=static,rows=64,bf16")
    assert steps == [Int8(activations="static", rows=64), Bfloat16()]
    assert parse_steps(" int4 : group=16 ") == parse_steps(["int4:group=16"]) == parse_steps([Int4(group=16)])
    assert parse_steps("int8:keep=[*.head, image_encoder.*],rows=9，bf16") == [
        Int8(keep=("*.head", "image_encoder.*"), rows=9),
        Bfloat16(),
    ]
    assert parse_steps("int8,rows=64") == [Int8(rows=64)]


def test_a_step_is_written_as_it_is_read() -> None:
    for written in ("int8", "int8:activations=static,percentile=99.9", "int4:group=64"):
        assert str(parse_steps(written)[0]) == written
    kept = Int8(keep=("*.head", "text_encoder.*"))
    assert parse_steps(str(kept)) == [kept]


@pytest.mark.parametrize("name", STEPS)
def test_every_step_can_be_found(name: str) -> None:
    with pytest.raises(ConfigError, match=f'step "{name}": unknown key "nonsense"'):
        parse_steps(f"{name}:nonsense=1")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("int9", r'no step is named "int9"; did you mean "int8"\?; known: '),
        ("int8:rowz=3", r'step "int8": unknown key "rowz"; did you mean "rows"\?'),
        ("rows=3,int8", r'"rows=3" is an option and no step stands before it; write STEP:rows=3'),
        ("", "steps: wanted one or more, for instance prune:ffn=0.3,int8; known: prune"),
        ("int8:rows=many", r'step "int8": rows: '),
        ("int8:rows", r'"rows": wanted key=value'),
        (
            "int8,prune:ffn=0.3",
            r'"prune" cannot follow "int8": what is quantized does not change any more; put "int8" last',
        ),
    ],
)
def test_what_is_written_wrongly_is_told(written: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_steps(written)
