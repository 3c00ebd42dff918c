"""Tables of `url<TAB>caption` (Conceptual Captions, SBU) whose pictures were fetched before: finding the files."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from polymodal.data.reading import ROW, Reading


class LocalFiles:
    """Files below a folder by their names."""

    def __init__(self, folder: Path) -> None:
        self._paths: dict[str, str | None] = {}  # None: several files have the name
        for base, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in names:
                self._paths[name] = None if name in self._paths else os.path.relpath(os.path.join(base, name), folder)

    def knows(self, url: str | None) -> bool:
        return file_name(url) in self._paths

    def path(self, url: str | None) -> str | None:
        """The file, relative to the folder; None when there is none or more than one."""
        return self._paths.get(file_name(url))


def file_name(url: str | None) -> str:
    """The last part of the URL's path, `a b.jpg` of `http://x.org/p/a%20b.jpg?size=2`."""
    try:
        return unquote(urlsplit(url or "").path.rpartition("/")[2])
    except ValueError:  # not a URL at all
        return ""


def ambiguous_names(urls: Iterator[str | None], files: LocalFiles) -> frozenset[str]:
    """Names of local files with which two different URLs end: which of the two a file is, nobody can say."""
    first: dict[str, str | None] = {}
    twice = set()
    for url in urls:
        if files.knows(url) and first.setdefault(file_name(url), url) != url:
            twice.add(file_name(url))
    return frozenset(twice)


def add_local_files(table: pa.Table, url: str, files: LocalFiles, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of the table with a column `image`; a row whose URL has no file, or an ambiguous one, is a fault."""
    column = table.column(url)
    ambiguous = ambiguous_names((value for chunk in column.chunks for value in chunk.to_pylist()), files)
    name = "image" if "image" not in table.column_names else "image_file"
    for batch in table.to_batches():
        paths = [None if file_name(value) in ambiguous else files.path(value) for value in batch[url].to_pylist()]
        for row, path, value in zip(batch[ROW].to_pylist(), paths, batch[url].to_pylist(), strict=True):
            if path is None and files.knows(value):
                reason = f'several URLs or files have the name "{file_name(value)}"'
                reading.fault(row, url, "ambiguous", reason, "write the path of each row's file into a column image")
            elif path is None:
                reason = f'no file here is named "{file_name(value)}", with which the URL ends'
                reading.fault(row, url, "not-fetched", reason, "fetch it, or leave the row out; nothing is downloaded")
        batch = batch.append_column(name, pa.array(paths, pa.string()))
        yield batch.filter(pa.array([path is not None for path in paths]))
    reading.note(f'pictures of column "{url}" are the files that have the names with which its URLs end')
