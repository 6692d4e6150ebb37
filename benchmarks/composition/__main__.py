"""`python -m benchmarks.composition [measure | page | memory | large]`: measured in pieces; goes on where it was.

`measure` adds cells to cells-tiny.jsonl, or with `--full` to cells-full.jsonl, until all are there or `--minutes` are
over, and writes the page. `page` writes docs/composition.md from the cells alone. `memory` and `large` print what a
step of a fit takes.
"""

from __future__ import annotations

import argparse
import importlib

from benchmarks.composition import tables
from benchmarks.composition.arms import ARMS, SIZES
from benchmarks.composition.bed import FULL, SMALL
from benchmarks.composition.curves import SEEDS, cells_of, measure
from genepool import progress

_COSTS = ("memory", "large")


def main() -> None:
    """Measures or draws."""
    names, kinds = [arm.name for arm in ARMS], [kind.name for kind in (*SMALL, *FULL)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composition", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("measure", "page", *_COSTS), default="measure")
    parser.add_argument("--full", action="store_true", help="on the testbeds of full size")
    parser.add_argument("--arms", nargs="+", choices=names, default=names, metavar="ARM", help="; ".join(names))
    parser.add_argument("--beds", nargs="+", choices=kinds, default=(), metavar="BED", help=", ".join(kinds))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0 on")
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=SIZES, help="examples of each task")
    parser.add_argument("--minutes", type=float, help="begin no other cell after so many minutes")
    asked = parser.parse_args()
    if asked.what in _COSTS:
        print(importlib.import_module(f"benchmarks.composition.{asked.what}").run())
        return
    if asked.what == "measure":
        progress.set_quiet(False)
        missing = measure(
            cells_of(full=asked.full),
            full=asked.full,
            arms=[arm for arm in ARMS if arm.name in asked.arms],
            beds=asked.beds,
            seeds=range(asked.seeds),
            sizes=asked.sizes,
            minutes=asked.minutes,
        )
        progress.message(f"{missing} cells are missing" if missing else "every cell is there")
    tables.write()


if __name__ == "__main__":
    main()
