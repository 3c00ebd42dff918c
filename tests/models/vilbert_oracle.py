"""ViLBERT in float64, one row at a time, from its formulas alone: what the model is measured against.

Written from arXiv:1908.02265 and the description of the released code; it shares nothing with the package. Weights go
by the names of the released checkpoints.
Shapes: L tokens; R regions, the global one included; D width of a stream.
"""

from collections.abc import Mapping
from math import erf, sin, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


class Answer(NamedTuple):
    text: Array  # (L, D)
    image: Array  # (R, D)
    pooled: Array  # (width,)
    words: Array  # (L, vocabulary)
    regions: Array  # (R, classes)
    alignment: Array  # (2,), 0: belongs together
    maps: list[tuple[Array, Array]]  # of each connection: text to regions (heads, L, R), regions to text (heads, R, L)


def filled(shapes: Mapping[str, tuple[int, ...]], size: float) -> dict[str, Array]:
    """Weights that follow from their names: element i = 1, 2, ... of tensor k = 1, 2, ..., in the order of names, is
    size · sin(0.7 i + 1.3 k), and 1 more in a LayerNorm's weight."""
    found = {}
    for number, name in enumerate(sorted(shapes), 1):
        count = int(np.prod(shapes[name]))
        values = np.array([size * sin(0.7 * place + 1.3 * number) for place in range(1, count + 1)])
        found[name] = values.reshape(shapes[name]) + ("LayerNorm" in name and name.endswith("weight"))
    return found


def vilbert(settings: Mapping[str, Any], weights: Weights, ids: list[int], features: Array, boxes: Array) -> Answer:
    """Of one text and of the real regions of one picture: features (R - 1, F), boxes (R - 1, 4) from 0 to 1."""
    text = embedded_text(weights, ids)
    image = embedded_regions(weights, features, boxes)
    heads = settings["num_attention_heads"], settings["v_num_attention_heads"], settings["bi_num_attention_heads"]
    done_text = done_image = 0
    maps = []
    for number, (in_image, in_text) in enumerate(
        zip(settings["v_biattention_id"], settings["t_biattention_id"], strict=True)
    ):
        for layer in range(done_image, in_image):
            image = own_layer(weights, f"bert.encoder.v_layer.{layer}", image, heads[1])
        for layer in range(done_text, in_text):
            text = own_layer(weights, f"bert.encoder.layer.{layer}", text, heads[0])
        done_image, done_text = in_image, in_text
        text, image, looks = connection(weights, f"bert.encoder.c_layer.{number}", text, image, heads[2])
        maps.append(looks)
    for layer in range(done_image, settings["v_num_hidden_layers"]):
        image = own_layer(weights, f"bert.encoder.v_layer.{layer}", image, heads[1])
    for layer in range(done_text, settings["num_hidden_layers"]):
        text = own_layer(weights, f"bert.encoder.layer.{layer}", text, heads[0])
    pooled_text = np.maximum(linear(weights, "bert.t_pooler.dense", text[0]), 0)
    pooled_image = np.maximum(linear(weights, "bert.v_pooler.dense", image[0]), 0)
    pooled = pooled_text + pooled_image if settings.get("fusion_method") == "sum" else pooled_text * pooled_image
    words = transformed(weights, "cls.predictions.transform", text)
    return Answer(
        text,
        image,
        pooled,
        words @ weights["bert.embeddings.word_embeddings.weight"].T + weights["cls.predictions.bias"],
        linear(weights, "cls.imagePredictions.decoder", transformed(weights, "cls.imagePredictions.transform", image)),
        linear(weights, "cls.bi_seq_relationship", pooled),
        maps,
    )


def embedded_text(weights: Weights, ids: list[int]) -> Array:
    table = "bert.embeddings"
    rows = [
        weights[f"{table}.word_embeddings.weight"][word]
        + weights[f"{table}.position_embeddings.weight"][place]
        + weights[f"{table}.token_type_embeddings.weight"][0]
        for place, word in enumerate(ids)
    ]
    return normed(weights, f"{table}.LayerNorm", np.array(rows))


def embedded_regions(weights: Weights, features: Array, boxes: Array) -> Array:
    """The global region in front: the mean of the others, in the box of the whole picture."""
    everything = np.vstack([features.mean(0), features])
    corners = np.vstack([[0.0, 0.0, 1.0, 1.0], boxes])
    places = np.array([[x1, y1, x2, y2, (x2 - x1) * (y2 - y1)] for x1, y1, x2, y2 in corners])
    table = "bert.v_embeddings"
    both = linear(weights, f"{table}.image_embeddings", everything)
    both = both + linear(weights, f"{table}.image_location_embeddings", places)
    return normed(weights, f"{table}.LayerNorm", both)


def own_layer(weights: Weights, name: str, x: Array, heads: int) -> Array:
    query, key, value = (linear(weights, f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
    context, _ = attended(query, key, value, heads)
    x = normed(
        weights, f"{name}.attention.output.LayerNorm", linear(weights, f"{name}.attention.output.dense", context) + x
    )
    return fed_forward(weights, f"{name}.intermediate", f"{name}.output", x)


def connection(
    weights: Weights, name: str, text: Array, image: Array, heads: int
) -> tuple[Array, Array, tuple[Array, Array]]:
    """1 in the names is the picture, 2 the text; a stream's own query is answered with the other's keys and values."""
    of = {
        (part, number): linear(weights, f"{name}.biattention.{part}{number}", x)
        for number, x in ((1, image), (2, text))
        for part in ("query", "key", "value")
    }
    for_text, text_looks = attended(of["query", 2], of["key", 1], of["value", 1], heads)
    for_image, image_looks = attended(of["query", 1], of["key", 2], of["value", 2], heads)
    image = normed(
        weights, f"{name}.biOutput.LayerNorm1", linear(weights, f"{name}.biOutput.dense1", for_image) + image
    )
    text = normed(weights, f"{name}.biOutput.LayerNorm2", linear(weights, f"{name}.biOutput.dense2", for_text) + text)
    image = fed_forward(weights, f"{name}.v_intermediate", f"{name}.v_output", image)
    text = fed_forward(weights, f"{name}.t_intermediate", f"{name}.t_output", text)
    return text, image, (text_looks, image_looks)


def attended(query: Array, key: Array, value: Array, heads: int) -> tuple[Array, Array]:
    contexts, looks = [], []
    size = query.shape[1] // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = np.exp(query[:, part] @ key[:, part].T / sqrt(size))
        looks.append(scores / scores.sum(1, keepdims=True))
        contexts.append(looks[-1] @ value[:, part])
    return np.concatenate(contexts, 1), np.array(looks)


def fed_forward(weights: Weights, wide: str, back: str, x: Array) -> Array:
    inside = gelu(linear(weights, f"{wide}.dense", x))
    return normed(weights, f"{back}.LayerNorm", linear(weights, f"{back}.dense", inside) + x)


def transformed(weights: Weights, name: str, x: Array) -> Array:
    return normed(weights, f"{name}.LayerNorm", gelu(linear(weights, f"{name}.dense", x)))


def linear(weights: Weights, name: str, x: Array) -> Array:
    out: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return out


def normed(weights: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    out: Array = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return out


def gelu(x: Array) -> Array:
    out: Array = x * (1 + np.vectorize(erf)(x / sqrt(2))) / 2
    return out


def shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every name in a released checkpoint of the pre-training model, and its tensor's shape."""
    width, v_width, both = settings["hidden_size"], settings["v_hidden_size"], settings["bi_hidden_size"]
    vocabulary, table = settings["vocab_size"], "bert.embeddings"
    sides = (
        ("layer", width, settings["intermediate_size"], settings["num_hidden_layers"]),
        ("v_layer", v_width, settings["v_intermediate_size"], settings["v_num_hidden_layers"]),
    )
    found = {
        f"{table}.word_embeddings.weight": (vocabulary, width),
        f"{table}.position_embeddings.weight": (settings["max_position_embeddings"], width),
        f"{table}.token_type_embeddings.weight": (settings["type_vocab_size"], width),
        **norm(f"{table}.LayerNorm", width),
        **layer("bert.v_embeddings.image_embeddings", settings["v_feature_size"], v_width),
        **layer("bert.v_embeddings.image_location_embeddings", 5, v_width),
        **norm("bert.v_embeddings.LayerNorm", v_width),
        **layer("bert.t_pooler.dense", width, both),
        **layer("bert.v_pooler.dense", v_width, both),
        **layer("cls.predictions.transform.dense", width, width),
        **norm("cls.predictions.transform.LayerNorm", width),
        "cls.predictions.decoder.weight": (vocabulary, width),
        "cls.predictions.bias": (vocabulary,),
        **layer("cls.bi_seq_relationship", both, 2),
        **layer("cls.imagePredictions.transform.dense", v_width, v_width),
        **norm("cls.imagePredictions.transform.LayerNorm", v_width),
        **layer("cls.imagePredictions.decoder", v_width, settings["v_target_size"]),
    }
    for kind, size, inside, count in sides:
        for number in range(count):
            name = f"bert.encoder.{kind}.{number}"
            for part in ("query", "key", "value"):
                found |= layer(f"{name}.attention.self.{part}", size, size)
            found |= layer(f"{name}.attention.output.dense", size, size) | norm(
                f"{name}.attention.output.LayerNorm", size
            )
            found |= feed_forward(f"{name}.intermediate", f"{name}.output", size, inside)
    for number in range(len(settings["v_biattention_id"])):
        name = f"bert.encoder.c_layer.{number}"
        for stream, letter, size, inside in ((1, "v", v_width, sides[1][2]), (2, "t", width, sides[0][2])):
            for part in ("query", "key", "value"):
                found |= layer(f"{name}.biattention.{part}{stream}", size, both)
            found |= layer(f"{name}.biOutput.dense{stream}", both, size) | norm(
                f"{name}.biOutput.LayerNorm{stream}", size
            )
            found |= layer(f"{name}.biOutput.q_dense{stream}", both, size)  # read by nothing
            found |= feed_forward(f"{name}.{letter}_intermediate", f"{name}.{letter}_output", size, inside)
    return found


def layer(name: str, given: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, given), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def feed_forward(wide: str, back: str, width: int, inside: int) -> dict[str, tuple[int, ...]]:
    return (
        layer(f"{wide}.dense", width, inside) | layer(f"{back}.dense", inside, width) | norm(f"{back}.LayerNorm", width)
    )
