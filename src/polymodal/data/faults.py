"""What is wrong with a row, and a list of such that does not fill memory.

Rows are counted as a reader of the table counts them: 1 is the first row of data, the header is not counted.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, overload

import pyarrow as pa

from polymodal.errors import DataError

Severity = Literal["error", "warning"]


class Fault(NamedTuple):
    row: int  # 1 is the first row of data
    column: str
    kind: str  # one word of a fixed set, to count by: "missing", "truncated", ...
    reason: str
    remedy: str
    severity: Severity = "error"

    def __str__(self) -> str:
        where = f"row {self.row}, {self.column}" if self.column else f"row {self.row}"
        return f"{where}: {self.reason}; {self.remedy}"


class CellError(DataError):
    """What a cell holds or names cannot be used; `kind` is a word to count by, `str` says all of it."""

    def __init__(self, name: object, kind: str, reason: str, remedy: str) -> None:
        super().__init__(f"{name}: {reason}; {remedy}")
        self.kind = kind
        self.reason = reason
        self.remedy = remedy


FAULT_SCHEMA = pa.schema([
    ("row", pa.int64()),
    *((name, pa.string()) for name in ("column", "kind", "reason", "remedy", "severity")),
])  # fmt: skip


class Faults(Sequence[Fault]):
    """Faults in an Arrow table: a list to read from, as long as it has to be."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> "Faults":
        columns = list(zip(*faults, strict=True)) or [()] * len(FAULT_SCHEMA)
        return cls(pa.table([pa.array(values, field.type) for values, field in zip(columns, FAULT_SCHEMA, strict=True)],
                            schema=FAULT_SCHEMA))  # fmt: skip

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Fault: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fault]: ...
    def __getitem__(self, index: int | slice) -> Fault | list[Fault]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"fault {index} of {len(self)}")
        place = index % len(self)
        return Fault(*(self.table.column(name)[place].as_py() for name in FAULT_SCHEMA.names))

    def __iter__(self) -> Iterator[Fault]:
        for batch in self.table.to_batches(max_chunksize=4096):
            yield from map(Fault._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))

    def counts(self) -> dict[str, int]:
        """How many faults of each kind, the most frequent first."""
        counted = self.table.column("kind").value_counts().to_pylist()
        return {entry["values"]: entry["counts"] for entry in sorted(counted, key=lambda entry: -entry["counts"])}


class FaultList:
    """Collects faults, compactly."""

    def __init__(self, first: Faults) -> None:
        self._tables = [first.table]
        self._waiting: list[Fault] = []

    def add(self, row: int, column: str, kind: str, reason: str, remedy: str, severity: Severity = "error") -> None:
        self._waiting.append(Fault(int(row), column, kind, reason, remedy, severity))
        if len(self._waiting) >= 4096:
            self._flush()

    def _flush(self) -> None:
        self._tables.append(Faults.of(self._waiting).table)
        self._waiting = []

    def sorted(self) -> Faults:
        """All of them, in the order of the rows."""
        self._flush()
        table = pa.concat_tables(self._tables)
        # Row first, then the order in which they were found, which sorting by the row alone does not promise.
        found = table.append_column("found", pa.array(range(table.num_rows), pa.int64()))
        return Faults(found.sort_by([("row", "ascending"), ("found", "ascending")]).drop_columns(["found"]))
