"""How long a command takes before it does anything, against an empty Python process."""

from __future__ import annotations

import sys

from benchmarks.measuring import median, table, time_in_turn

GENEPOOL = [sys.executable, "-m", "genepool"]


def run() -> str:
    """The table."""
    runs = time_in_turn(
        {
            "an empty Python process": [sys.executable, "-c", "pass"],
            "genepool --help": [*GENEPOOL, "--help"],
            "genepool methods": [*GENEPOOL, "methods"],
            "import torch alone": [sys.executable, "-c", "import torch"],
        },
        rounds=5,
    )
    rows = [[name, f"{median(seen).wall:.2f}", f"{median(seen).cpu:.2f}"] for name, seen in runs.items()]
    return table("Starting", "Medians of five runs in turn.", ("command", "wall s", "CPU s"), rows)
