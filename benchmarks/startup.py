"""How long a person waits before anything happens: `python benchmarks/startup.py`

Each line is the best of several fresh processes, in seconds, without the interpreter's own start.
"""

import json
import subprocess
import sys
import time

RUNS = 7
LINES = {
    "import polymodal": ["-c", "import polymodal"],
    "polymodal --help": ["-m", "polymodal", "--help"],
    "polymodal query --help": ["-m", "polymodal", "query", "--help"],
    "pm.load (with torch)": ["-c", "import polymodal as pm; pm.load"],
}
TARGETS = {"import polymodal": 0.5, "polymodal --help": 1.0}  # seconds


def best(words: list[str]) -> float:
    """The shortest of `RUNS` fresh processes, in seconds: what else the machine does can only lengthen one."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    bare = best(["-c", "pass"])
    measured = {name: round(best(words) - bare, 3) for name, words in LINES.items()}
    print(json.dumps({"interpreter": round(bare, 3), **measured}, indent=2))
    missed = [
        f"{name} took {measured[name]} s, wanted {most} s" for name, most in TARGETS.items() if measured[name] > most
    ]
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
