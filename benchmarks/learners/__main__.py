"""`python -m benchmarks.learners [measure | page]`: measured in pieces; goes on where it was.

`measure` adds cells to cells.jsonl until all are there or `--minutes` are over, and writes the page. `page` writes
docs/learners.md from the cells alone.
"""

from __future__ import annotations

from functools import partial

from benchmarks.by_arm import measure_by_arm
from benchmarks.learners import page
from benchmarks.learners.arms import ARMS
from benchmarks.learners.cells import SequenceCells
from benchmarks.learners.claims import SEEDS
from benchmarks.learners.measured import measure

if __name__ == "__main__":
    measure_by_arm("benchmarks.learners", __doc__, ARMS, SEEDS, partial(measure, SequenceCells()), page.write)
