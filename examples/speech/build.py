"""Build ``speech.parquet``: 551 spoken prompts of a telephone system, each with its words.

    python examples/speech/build.py speech.parquet

The sounds and their transcripts are two Debian packages, 18 MB, that apt fetches (no root needed; they are only
unpacked, not installed). Without apt: fetch the two files from any Debian mirror, `pool/main/a/asterisk-core-sounds/`,
and name their folder by ``--debs``. Voice: Allison Smith, CC-BY-SA-3.0. The same packages give the same bytes.
"""

import argparse
import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

VERSION = "1.6.1-1"
SHA256 = {
    "asterisk-core-sounds-en-wav": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "asterisk-core-sounds-en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
}
VOICE = "usr/share/asterisk/sounds/en_US_f_Allison"
TRANSCRIPTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
FOLDS = 5
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("audio", pa.binary()),
        ("text", pa.string()),
        ("words", pa.int64()),
        ("fold", pa.string()),
    ]
)


def transcripts(lines: list[str]) -> dict[str, str]:
    """Spoken texts by the sound's name: `name: text` a line, `;` before comments; tones and silences are left out."""
    found = {}
    for line in lines:
        name, colon, text = line.partition(":")
        text = text.strip()
        if line.startswith(";") or not colon or not text or text[0] in "[<(":
            continue
        # Notes stand behind the words: "at [@]", `IAX (note: does not say "2")`, "... (simple tone sound plays)".
        found[name.strip()] = re.sub(r"\s*(\[[^\]]*\]|\([^)]*\))\s*$", "", text)
    return found


def plain(text: str) -> str:
    """The words alone, so that "Goodbye!" and "goodbye" are one text."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def fold_of(text: str) -> str:
    """One of five, the same for the same words: what is tested has not been heard in training, from any file."""
    return str(int.from_bytes(hashlib.sha256(plain(text).encode()).digest()[:8], "big") % FOLDS)


def build(root: Path) -> pa.Table:
    """
    Args:
        root: folder into which both packages are unpacked.
    """
    lines = gzip.decompress((root / TRANSCRIPTS).read_bytes()).decode("utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for name, text in sorted(transcripts(lines).items()):
        sound = root / VOICE / f"{name}.wav"
        if sound.exists():
            words = len(plain(text).split())
            rows.append(
                {"name": name, "audio": sound.read_bytes(), "text": text, "words": words, "fold": fold_of(text)}
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def packages(folder: Path) -> list[Path]:
    """Both packages in `folder`; fetched by apt when they are not there yet, and compared with what they must be."""
    files = []
    for package, expected in SHA256.items():
        file = folder / f"{package}_{VERSION}_all.deb"
        if not file.exists():
            if shutil.which("apt-get") is None:
                sys.exit(
                    f"{file} is not there, and there is no apt-get to fetch it: take it from a Debian mirror, "
                    "pool/main/a/asterisk-core-sounds/, and name its folder by --debs"
                )
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", f"{package}={VERSION}"], cwd=folder, check=True)
        if (got := hashlib.sha256(file.read_bytes()).hexdigest()) != expected:
            sys.exit(f"{file}: its SHA-256 is {got}, wanted {expected}; delete it and begin again")
        files.append(file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    parser.add_argument("--debs", type=Path, default=Path("debs"), help="folder of the packages; fetched when missing")
    options = parser.parse_args()
    if shutil.which("dpkg-deb") is None:
        sys.exit("dpkg-deb, which unpacks the packages, is not installed: on other systems than Debian install dpkg")
    with tempfile.TemporaryDirectory() as folder:
        for file in packages(options.debs):
            subprocess.run(["dpkg-deb", "-x", str(file), folder], check=True)
        table = build(Path(folder))
    pq.write_table(table, options.out, compression="zstd")
    texts = len({plain(text) for text in table["text"].to_pylist()})
    print(f"{options.out}: {table.num_rows} prompts, {texts} different texts")


if __name__ == "__main__":
    main()
