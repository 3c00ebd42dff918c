"""Memory of reading a large manifest: 5 million rows must stay below 1 GiB resident.

    python benchmarks/manifest_memory.py                 # 5,000,000 rows
    python benchmarks/manifest_memory.py --rows 100000

Makes a CSV of that many rows (path, caption, label, split) in a temporary folder, then reads it in a process of its own
with an empty cache, looks up random rows, selects a split, walks over every caption of it, and prints rows, bytes, peak
resident memory and seconds as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2**30


def write_table(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("image,caption,label,split\n")
        for row in range(rows):
            split = "val" if row % 50 == 0 else "train"
            file.write(
                f'images/{row // 1000:05}/{row:09}.jpg,"a photo of thing {row}, 第{row}张照片",{row % 97},{split}\n'
            )


def measure(path: Path) -> dict[str, float]:
    import resource

    import numpy as np

    import polymodal.data.dataset  # torch and all that training imports: they are resident as well

    assert polymodal.data.dataset
    from polymodal.data import read

    imports_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    manifest = read(path)
    first = time.perf_counter() - start
    del manifest
    start = time.perf_counter()
    manifest = read(path)
    again = time.perf_counter() - start
    rows = np.random.default_rng(0).integers(0, len(manifest), 10_000).tolist()
    start = time.perf_counter()
    for row in rows:
        assert manifest.captions(row) == [f"a photo of thing {row}, 第{row}张照片"]
    look_up = (time.perf_counter() - start) / len(rows)
    start = time.perf_counter()
    train = manifest.split("train")
    select = time.perf_counter() - start
    start = time.perf_counter()
    assert sum(table.num_rows for table in train.batches(["caption"])) == len(train)
    walk = time.perf_counter() - start
    return {
        "rows": len(manifest),
        "bytes": path.stat().st_size,
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "of_that_imports_mib": round(imports_mib, 1),
        "first_read_s": round(first, 2),
        "second_read_s": round(again, 3),
        "split_s": round(select, 3),
        "walk_captions_s": round(walk, 2),
        "random_row_us": round(look_up * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "pairs.csv"
        write_table(table, arguments.rows)
        command = [sys.executable, __file__, "--measure", str(table)]
        environment = os.environ | {"POLYMODAL_CACHE": str(Path(folder) / "cache")}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    print(json.dumps(result, indent=2))
    if result["peak_rss_mib"] * 2**20 > LIMIT:
        sys.exit(f"peak resident memory is above {LIMIT // 2**20} MiB")


if __name__ == "__main__":
    main()
