"""`make bench`: run every benchmark and write what it printed into RESULTS.md, with the command that made it."""

import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "RESULTS.md"
COMMANDS = (
    "python benchmarks/startup.py",
    "python benchmarks/manifest_memory.py",
    "python benchmarks/media.py",
    "python benchmarks/training.py",
    "python benchmarks/vision_language.py",
)
BEGIN, END = "<!-- begin: make bench -->", "<!-- end: make bench -->"


def main() -> None:
    console = Console(stderr=True)
    sections = [f"Measured {datetime.now(UTC):%Y-%m-%d} on {platform.machine()}, Python {platform.python_version()}."]
    failed = []
    for command in COMMANDS:
        console.print(f"$ {command}")
        words = [sys.executable, *command.split()[1:]]
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        sections.append(f"`{command}`\n\n```text\n{done.stdout.strip()}\n```")
        if done.returncode:
            failed.append(command)
    measured = f"{BEGIN}\n" + "\n\n".join(sections) + f"\n{END}"
    text = RESULTS.read_text(encoding="utf-8")
    found = re.search(f"{BEGIN}.*?{END}", text, re.DOTALL)
    if found is None:
        sys.exit(f"{RESULTS}: the lines {BEGIN} and {END} are missing; nothing was written")
    RESULTS.write_text(text[: found.start()] + measured + text[found.end() :], encoding="utf-8")
    if failed:
        sys.exit("these did not reach their limits, or failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
