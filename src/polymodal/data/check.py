"""Look at every row of a manifest: what is wrong, where, why, and what to do; and what there is in numbers.

Errors are rows that cannot or must not be used: `fix` leaves them out. Warnings are rows that can be used and that
somebody should know of.

| kind | severity | means |
|---|---|---|
| ragged, quotes, encoding, json, archive | error | the row could not be read from its source |
| not-fetched, ambiguous | error | a URL has no file here, or several |
| no-picture | error | the cell is empty or holds several pictures |
| missing, empty-file, truncated, unreadable | error | there is no such file, it has 0 bytes, ends early, is damaged |
| not-a-picture, bomb | error | the file has no format that is read, or too many pixels |
| empty-caption | error if the row has no other caption, else warning | nothing but blanks |
| leak | error | the same picture is in another split too; the row nearer to training is named |
| near-leak | warning | a picture that looks the same is in another split |
| duplicate, near-duplicate | warning | another file of the same split has the same bytes, or looks the same |
| repeated | warning | an earlier row of the same split has the same picture and the same captions |
| wrong-ending | warning | the name or type says another format than the file has; it can be read |
| caption-is-file-name | warning | the caption is the name of the file |
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from polymodal.data.cache import written_beside
from polymodal.data.check_captions import Captions
from polymodal.data.check_pictures import Pictures
from polymodal.data.columns import Column
from polymodal.data.duplicates import report_duplicates
from polymodal.data.faults import FaultList, Faults, Severity
from polymodal.data.manifest import Manifest
from polymodal.data.write import resolve_out, write
from polymodal.errors import DataError


@dataclass(frozen=True)
class CheckReport:
    source: str
    rows: int  # of the source, those that could not be read included
    columns: tuple[Column, ...]
    notes: tuple[str, ...]
    faults: Faults  # in the order of the rows
    statistics: dict[str, Any]

    @property
    def left_out(self) -> NDArray[np.int64]:
        """Numbers of the rows that have an error, in order, once each."""
        table = self.faults.table
        numbers: NDArray[np.int64] = table.filter(pc.equal(table["severity"], "error"))["row"].to_numpy()
        return np.unique(numbers)

    def counts(self, severity: Severity) -> dict[str, int]:
        """Number of faults of each kind, the most frequent first."""
        table = self.faults.table
        return Faults(table.filter(pc.equal(table["severity"], severity))).counts()

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "rows": self.rows,
            "usable_rows": self.rows - len(self.left_out),
            "columns": [column._asdict() for column in self.columns],
            "notes": list(self.notes),
            "errors": self.counts("error"),
            "warnings": self.counts("warning"),
            "statistics": self.statistics,
            "faults": [fault._asdict() for fault in self.faults],
        }


def check(manifest: Manifest, *, workers: int | None = None, progress: bool = True) -> CheckReport:
    """Open every picture and read every caption.

    Memory: about 130 bytes a row, and a few decoded pictures for each worker.

    Args:
        workers: threads, one for each core if it is not given. Pillow decodes without the interpreter's lock.
        progress: show a bar on stderr when that is a terminal.
    """
    faults = FaultList(manifest.faults)
    statistics: dict[str, Any] = {}
    captions = Captions(manifest, faults, progress)
    if manifest.text:
        statistics["captions"] = captions.statistics()
    if manifest.image is not None:
        pictures = Pictures(manifest, faults, workers or os.cpu_count() or 1, progress)
        statistics["pictures"] = pictures.statistics()
        report_duplicates(manifest, pictures, captions.hashes, faults)
    statistics["categories"] = {
        column.name: _category(manifest, column.name)
        for column in manifest.columns
        if column.modality in ("category", "split")
    }
    return CheckReport(
        source=manifest.source,
        rows=len(manifest) + len(np.unique(manifest.faults.table["row"].to_numpy())),
        columns=manifest.columns,
        notes=manifest.notes,
        faults=faults.sorted(),
        statistics=statistics,
    )


def _category(manifest: Manifest, name: str) -> dict[str, Any]:
    counts = manifest.column(name).value_counts().to_pylist()
    filled = sorted((-entry["counts"], str(entry["values"])) for entry in counts if entry["values"] not in (None, ""))
    return {
        "values": len(filled),
        "rows_without": len(manifest) + sum(count for count, _ in filled),
        "largest": {value: -count for count, value in filled[:10]},
        "smallest": {value: -count for count, value in filled[::-1][:3]},
    }


@dataclass(frozen=True)
class Fixed:
    table: Path
    kept: int
    list: Path  # what was left out, and why
    left_out: int  # kept + left_out is the number of rows of the source


def fix(manifest: Manifest, report: CheckReport, out: Path) -> Fixed:
    """Write the rows without an error to `out`, and beside it `<out>.left-out.csv`, one line an error.

    Raises:
        DataError: no row is left, or `write` refuses.
    """
    left_out = report.left_out
    kept = manifest.select(~np.isin(manifest.row_numbers, left_out))
    if len(kept) == 0:
        raise DataError(f"{manifest.source}: every one of its {report.rows} rows has an error; nothing was written")
    listed = resolve_out(manifest, out).with_suffix(".left-out.csv")
    with written_beside(listed, "choose another place for the result") as part:
        _list_errors(manifest, report, part)
    return Fixed(write(kept, out), len(kept), listed, len(left_out))


def _list_errors(manifest: Manifest, report: CheckReport, path: Path) -> None:
    at = np.flatnonzero(np.isin(manifest.row_numbers, report.left_out))
    places = dict(zip(manifest.row_numbers[at].tolist(), at.tolist(), strict=True))
    shown = [name for name in (manifest.image, *manifest.text) if name is not None]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "column", "kind", "reason", "remedy", *shown])
        for fault in report.faults:
            if fault.severity == "error":
                place = places.get(fault.row)  # none for a row that could not be read from its source
                cells = ["" if place is None else _short(manifest.cell(place, name)) for name in shown]
                writer.writerow([fault.row, fault.column, fault.kind, fault.reason, fault.remedy, *cells])


def _short(value: Any) -> str:
    return "" if value is None or isinstance(value, bytes | dict) else str(value)[:200]
