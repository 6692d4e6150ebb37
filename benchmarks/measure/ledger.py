"""How long `genepool compare` takes on a ledger of a million outcomes, as a whole process.

`python -m benchmarks.measure.ledger [--rows 1000000] [--rounds 5]` writes a ledger of two models and ten tasks, and
compares them, in turn with nothing but reading the file.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import median, table, time_in_turn
from genepool.tasks import Ledger, Outcome

TASKS = 10
READ = "import sys; f = open(sys.argv[1], 'rb')\nwhile f.read(1 << 20): pass"


def write(path: Path, rows: int) -> None:
    """A ledger of two models that are right on seven of ten examples, half of the rows each."""
    each = rows // 2 // TASKS
    with Ledger(path) as ledger:
        for model in ("old", "new"):
            drawn = random.Random(model)
            for task in range(TASKS):
                outcomes = (
                    (f"{task}-{i}-".ljust(64, "0"), str(i), Outcome(float(drawn.random() < 0.7), f"answer {i % 9}"))
                    for i in range(each)
                )
                ledger.record(f"fingerprint of {model}", model, f"task {task}", "asked", outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="outcomes in the ledger")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each that count")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        write(path, given.rows)
        compare = [sys.executable, "-m", "genepool", "compare", "old", "new", "--ledger", str(path), "--json", "-q"]
        runs = time_in_turn(
            {
                "genepool compare": compare,
                "genepool methods (start-up)": [sys.executable, "-m", "genepool", "methods"],
                "reading the file": [sys.executable, "-c", READ, str(path)],
            },
            given.rounds,
        )
    figures = {name: median(run) for name, run in runs.items()}
    note = f"{given.rows:,} outcomes, medians of {given.rounds} runs in turn."
    lines = [[name, f"{of.wall:.2f}", f"{of.cpu:.2f}"] for name, of in figures.items()]
    print(table("A large ledger", note, ["command", "wall s", "CPU s"], lines))


if __name__ == "__main__":
    main()
