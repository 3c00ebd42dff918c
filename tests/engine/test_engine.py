import base64
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.decode import to_pixels
from polymodal.engine import Engine
from polymodal.engine.backends import Arrays
from polymodal.engine.engine import Vectors
from polymodal.engine.pictures import Picture
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.models.clip import Clip
from tests import tiny

TEXTS = [caption for caption in tiny.CAPTIONS if caption]


def engine_of(model: Clip) -> Engine:
    return Engine(model, tiny.tokenizer(), tiny.preprocess(), name="tiny", device="cpu")


@pytest.fixture
def engine() -> Engine:
    return engine_of(tiny.clip())


@pytest.fixture(scope="module")
def arrays() -> list[NDArray[np.uint8]]:
    draw = np.random.default_rng(3)
    return [draw.integers(256, size=(20 + place, 31 - place, 3), dtype=np.uint8) for place in range(7)]


def png(array: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


TRUNCATED = png(np.random.default_rng(1).integers(256, size=(40, 40, 3), dtype=np.uint8))[:-900]


@torch.no_grad()
def image_vector(array: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the model says of one picture alone."""
    preprocess = tiny.preprocess().image
    pixels = to_pixels(Image.fromarray(array), preprocess)
    return np.asarray(tiny.clip().embed_image(preprocess.normalize(pixels[None]))[0], np.float64)


@torch.no_grad()
def text_vector(text: str) -> NDArray[np.float64]:
    return np.asarray(tiny.clip().embed_text(tiny.tokenizer()([text], tiny.preprocess().text))[0], np.float64)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_pictures_come_back_in_order_as_the_model_sees_each_alone(
    engine: Engine, arrays: list[NDArray[np.uint8]], batch_size: int
) -> None:
    vectors = engine.embed(images=arrays, batch_size=batch_size)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [image_vector(array) for array in arrays], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_texts_come_back_in_order_as_the_model_sees_each_alone(engine: Engine, batch_size: int) -> None:
    vectors = engine.embed(texts=TEXTS, batch_size=batch_size)
    np.testing.assert_allclose(vectors, [text_vector(text) for text in TEXTS], atol=1e-6)


def test_every_shape_of_one_picture_gives_one_vector(
    engine: Engine, arrays: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    array, content = arrays[0], png(arrays[0])
    (tmp_path / "a.png").write_bytes(content)
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    shapes: list[Picture] = [
        array,
        content,
        uri,
        Image.fromarray(array),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        "a.png",
    ]
    vectors = engine.embed(images=shapes, root=tmp_path)
    np.testing.assert_allclose(vectors, np.tile(image_vector(array), (len(shapes), 1)), atol=1e-6)


def sizes_seen(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, ...]]]:
    """By the graph's name a list that grows by the shape of each batch that the backend sees."""
    sizes: dict[str, list[tuple[int, ...]]] = {"image": [], "text": []}
    run = engine.backend.run

    def note(graph: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        sizes[graph].append(next(iter(arrays.values())).shape)
        return run(graph, arrays)

    monkeypatch.setattr(engine.backend, "run", note)
    return sizes


def test_equal_items_are_computed_once(
    engine: Engine, arrays: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sizes_seen(engine, monkeypatch)
    first, second = png(arrays[0]), png(arrays[1])
    vectors = engine.embed(images=[first, second, first, arrays[2], bytes(first), arrays[2]])
    assert [size[0] for size in sizes["image"]] == [3]
    assert np.array_equal(vectors[[0, 3]], vectors[[2, 5]])
    assert np.array_equal(vectors[0], vectors[4])
    assert not np.array_equal(vectors[0], vectors[1])
    engine.embed(texts=["a dog", "a cat", "a dog"])
    assert [size[0] for size in sizes["text"]] == [2]


def test_short_texts_are_not_padded_for_long_ones(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = sizes_seen(engine, monkeypatch)
    long, short = "one two three four five six seven eight nine", "a dog"
    engine.embed(texts=[long, short, long + " ten", short + "s"], batch_size=2)
    alone = [tiny.tokenizer()([text], tiny.preprocess().text).ids.shape[1] for text in (short + "s", long + " ten")]
    assert [size[1] for size in sizes["text"]] == alone
    assert alone[0] < alone[1] <= 12


def test_a_batch_holds_texts_of_like_tokens_not_of_like_letters(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a dog", "一只狗在沙", "a cats", "两只猫睡在"]  # five letters, but of Chinese each is some tokens
    lengths = [tiny.tokenizer()([text], tiny.preprocess().text).ids.shape[1] for text in texts]
    sizes = sizes_seen(engine, monkeypatch)
    vectors = engine.embed(texts=texts, batch_size=2)
    assert [size[1] for size in sizes["text"]] == [sorted(lengths)[1], sorted(lengths)[3]]
    np.testing.assert_allclose(vectors, [text_vector(text) for text in texts], atol=1e-6)


def test_a_bad_picture_is_named_by_its_place(engine: Engine, arrays: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"embed: picture 2 of 3: .*no\.png: there is no such file"):
        engine.embed(images=[arrays[0], arrays[1], tmp_path / "no.png"])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "is not a picture"),
        (TRUNCATED, "cut off"),
        ("data:image/png;base64,@@@", "is not whole base64"),
        (np.zeros((4, 4, 3), np.float32), r"an array must be (height, width, 3) uint8 RGB, got (4, 4, 3) float32"),
        (np.full((4, 4), 1, np.uint8), r"got (4, 4) uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"got (0, 4, 3) uint8"),
        (7, "wanted a path, bytes, a data: URI, a PIL picture or an array, got int"),
        (None, "got NoneType"),
    ],
)
def test_reporting_gives_the_rest_and_says_what_is_wrong_with_the_bad(
    engine: Engine, arrays: list[NDArray[np.uint8]], bad: Any, reason: str
) -> None:
    found = engine.embed(images=[bad, arrays[0], bad, arrays[1]], batch_size=2, on_error="report")
    assert found.rows.tolist() == [1, 3]
    np.testing.assert_allclose(found.vectors, [image_vector(array) for array in arrays[:2]], atol=1e-6)
    assert [fault.place for fault in found.faults] == [0, 2]
    assert all(reason in fault.reason for fault in found.faults)


def test_a_truncated_picture_opened_by_the_caller_is_a_fault_too(engine: Engine) -> None:
    message = "embed: picture 0 of 1: the PIL picture cannot be read"
    with Image.open(io.BytesIO(TRUNCATED)) as lazy, pytest.raises(DataError, match=message):
        engine.embed(images=[lazy])


def test_bad_texts_are_named_by_their_place(engine: Engine) -> None:
    with pytest.raises(DataError, match="embed: text 1 of 2: the text is empty"):
        engine.embed(texts=["a dog", " \n"])
    mixed: list[Any] = ["", "a dog", 3, "a cat"]
    found = engine.embed(texts=mixed, on_error="report")
    assert found.rows.tolist() == [1, 3]
    assert found.faults == [(0, "the text is empty"), (2, "wanted a str, got int")]
    np.testing.assert_allclose(found.vectors, [text_vector("a dog"), text_vector("a cat")], atol=1e-6)


def test_nothing_in_nothing_out(engine: Engine) -> None:
    assert engine.embed(images=[]).shape == engine.embed(texts=[]).shape == (0, 8)
    assert engine.embed(images=[b""], on_error="report").vectors.shape == (0, 8)


def test_a_question_put_wrongly_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"give images=\[...\] or texts=\[...\], one of the two"):
        engine.embed()
    with pytest.raises(ConfigError, match="one of the two"):
        engine.embed(images=[], texts=[])
    with pytest.raises(DataError, match=r"wanted a list of texts, got one str: put it into \[ \]"):
        engine.embed(texts="a dog")
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        engine.embed(texts=["a dog"], batch_size=0)


def test_similarity_is_the_cosine(engine: Engine, arrays: list[NDArray[np.uint8]]) -> None:
    cosines = engine.similarity(arrays[:3], TEXTS[:2])
    expected = [
        [sum(a * b for a, b in zip(image_vector(array), text_vector(text), strict=True)) for text in TEXTS[:2]]
        for array in arrays[:3]
    ]
    np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_weights_that_are_not_numbers_are_not_passed_on(arrays: list[NDArray[np.uint8]]) -> None:
    model = tiny.clip()
    with torch.no_grad():
        next(model.image_encoder.parameters()).fill_(math.nan)
    with pytest.raises(ArtifactError, match='"tiny" gives vectors that are not numbers: its weights are damaged'):
        engine_of(model).embed(images=arrays[:1])


def test_without_a_tokenizer_pictures_still_work(arrays: list[NDArray[np.uint8]]) -> None:
    engine = Engine(tiny.clip(), None, tiny.preprocess(), name="eyes", device="cpu")
    assert engine.embed(images=arrays[:1]).shape == (1, 8)
    with pytest.raises(ArtifactError, match='"eyes" has no tokenizer: it can embed pictures, not texts'):
        engine.embed(texts=["a dog"])


def test_several_threads_get_the_answers_of_one(engine: Engine, arrays: list[NDArray[np.uint8]]) -> None:
    pictures, texts = engine.embed(images=arrays), engine.embed(texts=TEXTS)

    def ask(turn: int) -> Vectors:
        return engine.embed(images=arrays, batch_size=3) if turn % 2 else engine.embed(texts=TEXTS, batch_size=2)

    with ThreadPoolExecutor(6) as pool:
        for turn, answer in enumerate(pool.map(ask, range(24))):
            np.testing.assert_allclose(answer, pictures if turn % 2 else texts, atol=1e-6)


def test_bfloat16_is_near_float32_and_of_unit_length(engine: Engine, arrays: list[NDArray[np.uint8]]) -> None:
    half = Engine(tiny.clip(), tiny.tokenizer(), tiny.preprocess(), device="cpu", precision="bfloat16")
    vectors = half.embed(images=arrays)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert ((vectors * engine.embed(images=arrays)).sum(1) > 0.999).all()
    assert half.scale == engine.scale  # read before it is rounded


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r'device "cuda:9" cannot be used: .*`polymodal doctor` says'):
        Engine(tiny.clip(), None, tiny.preprocess(), device="cuda:9")
    with pytest.raises(ConfigError, match='device "gpu" cannot be used'):
        Engine(tiny.clip(), None, tiny.preprocess(), device="gpu")


def test_the_checksum_names_weights_and_settings() -> None:
    names = {
        engine_of(tiny.clip()).checksum,
        engine_of(tiny.clip()).checksum,
        engine_of(tiny.clip(temperature=0.5)).checksum,
        Engine(tiny.clip(), None, tiny.preprocess().model_copy(update={"image": tiny.preprocess().image.model_copy(
            update={"fit": "squash"})}), device="cpu").checksum,
    }  # fmt: skip
    assert len(names) == 3


@pytest.fixture(params=["clip", "siglip"])
def classifier(request: pytest.FixtureRequest) -> Engine:
    return engine_of(tiny.clip() if request.param == "clip" else tiny.siglip())


def test_names_are_ranked_by_the_formula(classifier: Engine, arrays: list[NDArray[np.uint8]]) -> None:
    labels, templates = ["dog", "cat", "狗"], ["a photo of a {}", "the {}"]
    guesses = classifier.classify(arrays[0], labels, templates=templates)

    image = classifier.embed(images=arrays[:1])[0].tolist()
    logits = []
    for label in labels:
        sentences = classifier.embed(texts=[template.replace("{}", label) for template in templates]).tolist()
        mean = [sum(column) / len(sentences) for column in zip(*sentences, strict=True)]
        length = math.sqrt(sum(value * value for value in mean))
        logits.append(classifier.scale * sum(a * b / length for a, b in zip(image, mean, strict=True)))
    if classifier.bias is None:
        whole = sum(math.exp(logit) for logit in logits)
        expected = [math.exp(logit) / whole for logit in logits]
    else:
        expected = [1 / (1 + math.exp(-(logit + classifier.bias))) for logit in logits]

    expected_of = dict(zip(labels, expected, strict=True))
    assert dict(guesses) == {label: pytest.approx(value, rel=1e-4) for label, value in expected_of.items()}
    assert [guess.label for guess in guesses] == sorted(labels, key=lambda label: -expected_of[label])


def test_a_list_of_pictures_gives_a_list_of_answers(engine: Engine, arrays: list[NDArray[np.uint8]]) -> None:
    answers = engine.classify(arrays[:3], ["dog", "cat"])
    assert [dict(answer) for answer in answers] == [
        {label: pytest.approx(value, abs=1e-6) for label, value in engine.classify(array, ["dog", "cat"])}
        for array in arrays[:3]
    ]
    assert all(sum(guess.probability for guess in answer) == pytest.approx(1) for answer in answers)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], None, r"labels: wanted a list of names, got \[\]"),
        ("cat", None, "labels: wanted a list of names, got 'cat'"),
        (["cat", " "], None, "labels: wanted names, got ' '"),
        (["cat", "cat"], None, 'labels: "cat" comes twice'),
        (["cat"], ["a photo"], 'template "a photo" has no place for the label; write {} where the label belongs'),
        (["cat"], [], "templates: wanted at least one"),
    ],
)
def test_labels_and_templates_that_make_no_sense_are_refused(
    engine: Engine, labels: list[str], templates: list[str] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.class_vectors(labels, templates)
