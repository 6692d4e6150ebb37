"""Runs the benchmarks named on the command line, or all of them, and prints their tables as Markdown."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = {
    "starting": "benchmarks.starting",
    "merging": "benchmarks.merge.side_by_side",
    "asking": "benchmarks.asking",
    "training": "benchmarks.training_memory",
    "trl": "benchmarks.training.side_by_side",
    "composing": "benchmarks.composition.memory",
}


def main() -> None:
    """`python -m benchmarks [name ...]`."""
    unknown = [name for name in sys.argv[1:] if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: no benchmark '{unknown[0]}'. There are: {', '.join(BENCHMARKS)}.")
    for name in sys.argv[1:] or BENCHMARKS:
        # Imported when its turn comes: what one needs must not sit in memory while another is timed.
        print(importlib.import_module(BENCHMARKS[name]).run(), flush=True)


main()
