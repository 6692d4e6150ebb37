"""`python -m benchmarks.samplers [measure | page]`: measured in pieces; goes on where it was.

`measure` adds cells to cells.jsonl until all are there or `--minutes` are over, and writes the page. `page` writes
docs/samplers.md from the cells alone.
"""

from __future__ import annotations

from functools import partial

from benchmarks.by_arm import measure_by_arm
from benchmarks.learning.claim import SEEDS
from benchmarks.learning.measured import measure
from benchmarks.samplers import page
from benchmarks.samplers.asked import ARMS, known_cells
from benchmarks.samplers.bed import SamplerBed

if __name__ == "__main__":
    measuring = partial(measure, known_cells(), bed=SamplerBed)
    measure_by_arm("benchmarks.samplers", __doc__, ARMS, SEEDS, measuring, page.write)
