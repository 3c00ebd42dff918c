"""The lines of Python by which an exported folder is used, without torch and without this package."""

from collections.abc import Sequence

from polymodal.export.write import Format
from polymodal.features import AudioInput, Features, ImageInput, RecordInput, RegionsInput, SeriesInput, TextInput
from polymodal.layers.log_mel import mel_filters
from polymodal.preprocess import AudioPreprocess, ImagePreprocess, Preprocess, TextPreprocess
from polymodal.text import Tokenizer

PACKAGES: dict[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino", "program": "torch"}
RUN: dict[Format, str] = {
    "onnx": """\
def run(graph, arrays):
    session = onnxruntime.InferenceSession(f"{graph}.onnx")
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {port.name: arrays[port.name] for port in session.get_inputs()})))
""",
    "openvino": """\
def run(graph, arrays):  # f32: exactly; without it OpenVINO computes in what the processor is fastest in
    model = openvino.compile_model(f"{graph}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    said = model({port.any_name: arrays[port.any_name] for port in model.inputs})
    return {port.any_name: said[port] for port in model.outputs}
""",
    "program": """\
def run(graph, arrays):
    about = json.load(open("export.json", encoding="utf-8"))["graphs"][graph]
    given = [torch.from_numpy(arrays[port["name"]]) for port in about["inputs"]]
    said = torch.export.load(f"{graph}.pt2").module()(*given)
    return {port["name"]: one.detach().numpy() for port, one in zip(about["outputs"], said)}
""",
}
CLASSIFY = """\
ids, mask = tokens(["a photo of a dog", "一张猫的照片"])
images = run("image", {{"pixels": pixels("photo.jpg")}})["vectors"]  # rows of length 1: their products are cosines
texts = run("text", {{"ids": ids, "mask": mask}})["vectors"]
logits = {scale!r} * images @ texts.T{bias}
{shares}
print(shares)
"""


def code(format: Format, preprocess: Preprocess | Features, tokenizer: Tokenizer | None, **clip: float | None) -> str:  # noqa: A002
    """The program, to be run in the folder.

    Args:
        clip: `scale` and `bias` of a model of pictures and texts.
    """
    if isinstance(preprocess, Preprocess):
        parts = [_pixels(preprocess.image), *([_tokens(preprocess.text, tokenizer)] if tokenizer else [])]
        parts.append(_classify(**clip) if tokenizer else 'print(run("image", {"pixels": pixels("photo.jpg")}))\n')
    else:
        parts = _rows(preprocess, tokenizer)
    body = "\n".join((RUN[format], *parts))
    return _imports(format, body) + "\n\n" + body


def _imports(format: Format, body: str) -> str:  # noqa: A002
    lines = [
        *(name for name in ("json", "wave") if f"{name}." in body),
        "",
        "numpy as np",
        PACKAGES[format],
    ]
    written = [f"import {line}" if line else "" for line in lines]
    if "Image." in body:
        written.append("from PIL import Image, ImageOps")
    if "Tokenizer." in body:
        written.append("from tokenizers import Tokenizer")
    return "\n".join(written).strip()


def _classify(scale: float | None, bias: float | None) -> str:
    assert scale is not None
    softmax = "shares = np.exp(logits - logits.max(1, keepdims=True))\nshares /= shares.sum(1, keepdims=True)"
    shares = softmax if bias is None else "shares = 1 / (1 + np.exp(-logits))"
    return CLASSIFY.format(scale=scale, bias="" if bias is None else f" + {bias!r}", shares=shares)


def _pixels(image: ImagePreprocess, name: str = "pixels") -> str:
    size, method = image.size, image.interpolation.upper()
    scaled = f"    image = image.resize(({size}, {size}), Image.{method})\n"
    if image.fit == "crop":
        scaled = f"""\
    width, height = image.size
    short = min(width, height)
    image = image.resize((int({size} * width / short), int({size} * height / short)), Image.{method})
    left, top = (image.width - {size}) // 2, (image.height - {size}) // 2
    image = image.crop((left, top, left + {size}, top + {size}))
"""
    return f"""\
def {name}(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, {(*image.background, 255)}), image).convert("RGB")
{scaled}    return np.asarray(image).transpose(2, 0, 1)[None].copy()
"""


def _tokens(text: TextPreprocess, tokenizer: Tokenizer, name: str = "tokens") -> str:
    padding = f"pad_id={tokenizer.pad_id}, pad_token={tokenizer.pad_token!r}"
    mask = "row.attention_mask"
    if text.pad_to_max:
        padding, mask = f"{padding}, length={text.max_length}", "[True] * len(row.ids)"
    return f"""\
def {name}(texts):
    tokenizer = Tokenizer.from_file("tokenizer.json")
    tokenizer.encode_special_tokens = True
    tokenizer.enable_truncation({text.max_length})
    tokenizer.enable_padding({padding})
    rows = tokenizer.encode_batch(texts)
    return np.array([row.ids for row in rows], "int64"), np.array([{mask} for row in rows], bool)
"""


def _rows(features: Features, tokenizer: Tokenizer | None) -> list[str]:
    """A row with every input; what a row lacks has `present.NAME` False, and anything of the right shape."""
    functions: list[str] = []
    given = ["arrays = {}"]
    settings = 'inputs = json.load(open("preprocess.json", encoding="utf-8"))["inputs"]'
    for place, (name, config) in enumerate(features.inputs.items()):
        part = name.__repr__().replace("'", '"')
        match config:
            case ImageInput():
                functions.append(_pixels(config.preprocess, f"pixels_{place}"))
                given.append(f'arrays[{part}] = pixels_{place}("photo.jpg")')
            case TextInput():
                assert tokenizer is not None
                functions.append(_tokens(config.preprocess, tokenizer, f"tokens_{place}"))
                given.append(f'arrays[{part} + ".ids"], arrays[{part} + ".mask"] = tokens_{place}(["a dog 一只狗"])')
            case RecordInput():
                functions.append(RECORD)
                row = {column.name: column.mean for column in config.numbers} | {
                    column.name: next(iter(column.values), None) for column in config.categories
                }
                given.append(f"arrays |= record({part}, inputs[{part}], {row!r})")
            case SeriesInput():
                given += [
                    f'steps = np.load("steps.npy")[:{config.max_length}]  # (steps, {len(config.means)})',
                    f'steps = (steps - inputs[{part}]["means"]) / inputs[{part}]["stds"]',
                    *_steps(part),
                ]
            case AudioInput():
                functions.append(_sound(config.preprocess, f"sound_{place}", f"mels_{place}.npy"))
                given += [f'steps = sound_{place}("sound.wav")', *_steps(part)]
            case RegionsInput():
                given += [
                    f'arrays[{part} + ".features"] = np.load("features.npy")[None]  # (regions, {config.width})',
                    f'arrays[{part} + ".boxes"] = np.load("boxes.npy")[None]  # (regions, 4), shares of the picture',
                    f'arrays[{part} + ".mask"] = np.ones((1, len(np.load("boxes.npy"))), dtype=bool)',
                ]
        given.append(f'arrays["present." + {part}] = np.array([True])')
    if any("inputs[" in line for line in given):
        given.insert(0, settings)
    given.append('said = run("rows", arrays)')
    if not features.targets:
        given.append('print(said["state"])')
    else:
        given += [
            'for target, about in json.load(open("labels.json", encoding="utf-8")).items():',
            '    answer = said["answer." + target]',
            '    print(target, dict(zip(about["classes"], answer[0])) if answer.ndim == 2 else answer)',
        ]
    return [*functions, "\n".join(given) + "\n"]


def _steps(part: str) -> Sequence[str]:
    return (
        f'arrays[{part} + ".values"] = steps[None].astype("float32")',
        f'arrays[{part} + ".mask"] = np.ones((1, len(steps)), dtype=bool)',
    )


RECORD = """\
def record(name, columns, row):  # a value that is None is missing, one that training has not seen has code 1
    numbers = [np.nan if row[one["name"]] is None else (row[one["name"]] - one["mean"]) / one["std"]
               for one in columns["numbers"]]
    codes = [0 if row[one["name"]] is None else {value: 2 + at for at, value in enumerate(one["values"])}
             .get(row[one["name"]], 1) for one in columns["categories"]]
    numbers = np.array([numbers], dtype="float32")
    return {f"{name}.numbers": np.nan_to_num(numbers), f"{name}.missing": np.isnan(numbers),
            f"{name}.categories": np.array([codes], dtype="int64")}
"""


def _sound(audio: AudioPreprocess, name: str, filters: str) -> str:
    if audio.features == "samples":
        steps = "    return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))[:, None]\n"
    else:
        least = max(audio.window, audio.max_samples if audio.pad_to_max else 0)
        steps = f"""\
    samples = np.pad(samples, (0, max(0, {least} - len(samples))))
    padded = np.pad(samples, {audio.window // 2}, mode="reflect")
    places = np.arange(len(samples) // {audio.hop})[:, None] * {audio.hop} + np.arange({audio.window})
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange({audio.window}) / {audio.window})
    power = np.abs(np.fft.rfft(padded[places] * window)) ** 2
    log = np.log10(np.maximum(power @ np.load("{filters}").T, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4
"""
    return f"""\
def {name}(path):  # 16 bits, one channel, {audio.rate} samples a second
    file = wave.open(path)
    samples = np.frombuffer(file.readframes({audio.max_samples}), "<i2") / 32768
{steps}"""


def filters_of(features: Preprocess | Features) -> dict[str, AudioPreprocess]:
    """Files of mel filters that the lines of the README read, by name."""
    if isinstance(features, Preprocess):
        return {}
    return {
        f"mels_{place}.npy": config.preprocess
        for place, config in enumerate(features.inputs.values())
        if isinstance(config, AudioInput) and config.preprocess.features == "log_mel"
    }


__all__ = ["code", "filters_of", "mel_filters"]
