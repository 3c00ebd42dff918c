"""How good a model in the making is, on the metric that its user cares for."""

import copy

from polymodal.compress.step import Quality, Work
from polymodal.data.manifest import Manifest
from polymodal.engine import Engine, Predictor
from polymodal.errors import DataError
from polymodal.evaluate import Report
from polymodal.evaluate.run import evaluate_pairs
from polymodal.evaluate.targets import evaluate_targets
from polymodal.features import Features
from polymodal.models.clip import Clip


def quality(work: Work, candidates: int | None = None) -> Quality:
    """Of pictures and texts R@1, the mean of both ways (without texts: zero-shot accuracy); of targets the mean of
    their main metrics.

    The interval's ends are the means of the parts' ends: exact for one part, somewhat wide for several.

    Args:
        candidates: each query is asked among so many items; None: all measured rows.

    Raises:
        DataError: the rows allow no such number.
    """
    if isinstance(work.model, Clip):
        report = evaluate_pairs(
            _engine(work), work.measured, tasks=[_task(work.measured)], candidates=candidates, k=(1,), seed=work.seed
        )
    else:
        report = evaluate_targets(_predictor(work), work.measured, seed=work.seed)
    return _of(report, work.measured)


def _of(report: Report, measured: Manifest) -> Quality:
    names, values, lows, highs = [], {}, [], []
    for path, part in report.parts():
        metric = part.get("main") or next(iter(part["metrics"]))
        found = part["metrics"][metric]
        if found["value"] is None:
            raise DataError(
                f"{measured.source}: {path[-1]}: {metric} cannot be told on the {len(measured)} measured rows: "
                f"{'; '.join(report.data['notes'])}; name other rows by --split"
            )
        names.append(metric)
        values[" ".join((path[-1], metric)).replace("_", " ")] = found["value"]
        lows.append(found["low"])
        highs.append(found["high"])
    one = len(set(names)) == 1
    low = None if None in lows else sum(lows) / len(lows)
    high = None if None in highs else sum(highs) / len(highs)
    metric = names[0] if one else "mean of " + ", ".join(values)
    return Quality(metric, sum(values.values()) / len(values), low, high, values)


def _task(measured: Manifest) -> str:
    return "retrieval" if measured.text else "zero-shot"


# Copies, because what loads a model for speed may change its layers. By torch: a model that is measured once is not
# worth the time to convert it.


def _engine(work: Work) -> Engine:
    assert isinstance(work.model, Clip)
    assert not isinstance(work.preprocess, Features)
    model = copy.deepcopy(work.model)
    return Engine(model, work.tokenizer, work.preprocess, name=_name(work), device="cpu", backend="torch")


def _predictor(work: Work) -> Predictor:
    assert not isinstance(work.model, Clip)
    assert isinstance(work.preprocess, Features)
    model = copy.deepcopy(work.model)
    return Predictor(model, work.tokenizer, work.preprocess, name=_name(work), device="cpu", backend="torch")


def _name(work: Work) -> str:
    return str(work.artifact.folder)
