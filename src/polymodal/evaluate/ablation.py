"""What each input is worth: a model's metrics when it may look at some of its inputs only.

Nothing is trained again: inputs that are left out are absent, as the model bears them in any row. A model that never
saw rows without an input (no missing cells, `model.input_dropout` of 0) may do worse without it than one that was
trained without it would.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.manifest import Manifest
from polymodal.engine import Predictor, load_predictor
from polymodal.engine.predict import faults_of, notes_of
from polymodal.engine.progress import progress_bar
from polymodal.errors import DataError
from polymodal.evaluate.measured import measure_part
from polymodal.evaluate.targets import inputs_of, known_of, look
from polymodal.metrics.supervised import MAIN_METRIC

MOST_INPUTS = 6  # of which every subset is measured; of more only the single ones, all but one, and all


@dataclass(frozen=True)
class Ablation:
    data: dict[str, Any]  # what ablation.json holds

    def table(self, target: str) -> list[dict[str, Any]]:
        """A row for each subset of inputs: `inputs`, `rows` (share that has one of them), and the main metric's value,
        low, high and baseline; the smallest subsets first."""
        main = self.data["targets"][target]["main"]
        return [
            {"inputs": one["inputs"], "rows": one["rows"], **one["targets"][target][main]}
            for one in self.data["subsets"]
            if target in one["targets"]
        ]

    def write(self, folder: str | Path) -> list[Path]:
        """Write ablation.json and a plot, ablation-TARGET.png, for each target; gives back the paths.

        Raises:
            DataError: the folder cannot be written.
        """
        from polymodal.evaluate.ablation_plot import draw

        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False)
            (target / "ablation.json").write_text(text + "\n", encoding="utf-8")
            return [target / "ablation.json", *draw(self, target)]
        except OSError as error:
            raise DataError(f"{target}: the ablation cannot be written ({error.strerror})") from None


def ablate(
    artifact: str | Path | Predictor,
    table: str | Path | Manifest,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
) -> Ablation:
    """Every target's metrics, with intervals, for each subset of the inputs that the table has.

    Args:
        artifact: a folder, or a predictor; of a run's folder the rows are known that it was not trained on.
        images: the folder of the pictures, if not the table's.
        split, exclude: which rows, as in `evaluate`.
        seed: of the bootstrap.
        out: a folder for ablation.json and the plots.

    Raises:
        ArtifactError: the model has no targets.
        ConfigError: a value to exclude is not in its column.
        DataError: the table cannot be read, or has nothing that the model reads or predicts.
    """
    predictor = artifact if isinstance(artifact, Predictor) else load_predictor(artifact)
    chosen, rows, seen = look(
        predictor,
        table,
        artifact=artifact if isinstance(artifact, str | Path) else None,
        images=images,
        split=split,
        exclude=exclude or {},
        progress=progress,
    )
    there = [name for name, present in seen.present.items() if present.any()]
    known = {name: one for name, one in known_of(predictor, seen).items() if one.rows().any()}
    if not known:
        raise DataError(f"{chosen.manifest.source}: no row has a value of a target: there is nothing to compare with")
    if not there:
        raise DataError(f"{chosen.manifest.source}: no row has any of the inputs {', '.join(seen.present)}")
    found = []
    wanted = list(subsets(there))
    with progress_bar("leaving inputs out", len(wanted), progress) as advance:
        for names in wanted:
            whole = len(names) == len(there)
            said = known_of(predictor, seen, seen.outputs if whole else predictor.outputs(rows, only=names))
            any_of = np.stack([seen.present[name] for name in names]).any(0)
            results = {name: measure_part(said[name], seed)["metrics"] for name in known}
            found.append({"inputs": list(names), "rows": float(any_of.mean()), "targets": results})
            advance(1)
    targets = predictor.features.targets
    ablation = Ablation(
        {
            "artifact": {"name": predictor.name, "checksum": predictor.checksum},
            "table": {"path": str(chosen.manifest.source), "rows": chosen.table_rows},
            "rows": {"chosen": len(rows), "which": chosen.reason, "split": chosen.split},
            "inputs": inputs_of(predictor, seen),
            "targets": {
                name: {
                    "task": targets[name].task,
                    "main": MAIN_METRIC[targets[name].task],
                    "rows": int(known[name].rows().sum()),
                }
                for name in known
            },
            "subsets": found,
            "warnings": chosen.warnings,
            "notes": [*notes_of(rows), *_notes(predictor, there, list(known))],
            "faults": [fault._asdict() for fault in faults_of(rows)],
        }
    )
    if out is not None:
        ablation.write(out)
    return ablation


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every one but the empty one, small ones first; of more than `MOST_INPUTS` single ones, all but one, and all."""
    count = len(names)
    sizes = range(1, count + 1) if count <= MOST_INPUTS else (1, count - 1, count)
    for size in sizes:
        yield from combinations(names, size)


def _notes(predictor: Predictor, there: Sequence[str], known: Sequence[str]) -> list[str]:
    notes = [
        f"{name}: in none of these rows, so it is left out of the subsets"
        for name in predictor.features.inputs
        if name not in there
    ]
    notes += [
        f"{name}: not measured, no row has a value that the model knows"
        for name in predictor.features.targets
        if name not in known
    ]
    if len(there) > MOST_INPUTS:
        notes.append(
            f"{len(there)} inputs have {2 ** len(there) - 1:,} subsets: measured are the single inputs, all but one, "
            "and all"
        )
    return notes
