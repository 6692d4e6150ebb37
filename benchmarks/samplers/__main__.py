"""`python -m benchmarks.samplers [measure | page]`: measured in pieces; goes on where it was.

`measure` adds cells to cells.jsonl until all are there or `--minutes` are over, and writes the page. `page` writes
docs/samplers.md from the cells alone.
"""

from __future__ import annotations

import argparse

from benchmarks.learning.claim import SEEDS
from benchmarks.learning.measured import measure
from benchmarks.samplers import page
from benchmarks.samplers.asked import ARMS, known_cells
from benchmarks.samplers.bed import SamplerBed
from genepool import progress


def main() -> None:
    """Measures or draws."""
    names = [arm.name for arm in ARMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samplers", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("measure", "page"), default="measure")
    parser.add_argument("--arms", nargs="+", choices=names, default=names, metavar="ARM", help="; ".join(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS), help="these, from 0 on")
    parser.add_argument("--minutes", type=float, help="begin no other cell after so many minutes")
    asked = parser.parse_args()
    if asked.what == "measure":
        progress.set_quiet(False)
        arms = [arm for arm in ARMS if arm.name in asked.arms]
        missing = measure(known_cells(), arms=arms, seeds=asked.seeds, minutes=asked.minutes, bed=SamplerBed)
        progress.message(f"{missing} cells are missing" if missing else "every cell is there")
    page.write()


if __name__ == "__main__":
    main()
