"""`python -m benchmarks.learning [measure | page]`: measured in pieces; goes on where it was.

`measure` adds cells to cells.jsonl until all are there or `--minutes` are over, and writes the page. `page` writes
docs/learning.md from the cells alone.
"""

from __future__ import annotations

from functools import partial

from benchmarks.by_arm import measure_by_arm
from benchmarks.learning import page
from benchmarks.learning.claim import SEEDS
from benchmarks.learning.families import ARMS
from benchmarks.learning.measured import known_cells, measure

if __name__ == "__main__":
    measure_by_arm("benchmarks.learning", __doc__, ARMS, SEEDS, partial(measure, known_cells()), page.write)
