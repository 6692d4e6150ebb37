"""Arms of Poly and MHR: modules that many tasks share, asked about these tasks, and about a task that was left out.

A skill's task is left out in turn. The modules learn from the examples of the others, and then from those of the new
task: as a whole (Poly), or its shares alone (MHR-z).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.composition.bed import Bed, timed
from benchmarks.composition.cells import Cell
from genepool.composition import save_composition

#: Steps on many tasks, and on a new one.
FIRST, THEN = 300, 100
#: Of both methods, so that MHR-z trains less than 1% of what Poly does: the widths of these testbeds are 64 and 176.
MODULES: dict[str, Any] = {"modules": 8, "rank": 4}
HEADS = 4
# The part of Poly's numbers that MHR-z may train.
_FEW = 0.01

Measure = Callable[[Bed, int], Cell]


def known_tasks(method: str, **options: Any) -> Measure:
    """One inventory for all skills' tasks, each asked of its own model."""

    def measure(bed: Bed, examples: int) -> Cell:
        settings = {**MODULES, "steps": FIRST, **options}
        whole, seconds = timed(lambda: bed.fitted(method, settings, examples))
        scores: dict[str, Any] = {}
        for skill in bed.skills:
            scores |= bed.ask(whole.for_task(skill).source(), (skill,))
        return Cell(scores, seconds, {"trained_numbers": whole.record["trained_numbers"]})

    return measure


def new_tasks(method: str, trains: str, **options: Any) -> Measure:
    """Each skill's task is new in turn.

    Raises:
        ValueError: MHR-z trains too many numbers for what is claimed of it.
    """

    def measure(bed: Bed, examples: int) -> Cell:
        scores: dict[str, Any] = {}
        total, numbers = 0.0, [0, 0]
        for skill in bed.skills:
            others = [one for one in bed.skills if one != skill]
            begin = partial(bed.fitted, method, {**MODULES, "steps": FIRST, **options}, examples, tasks=others)
            known, first = timed(begin)
            with tempfile.TemporaryDirectory() as place:
                folder = save_composition(known, Path(place) / "known")
                settings = {**options, "trains": trains, "inventory": str(folder), "steps": THEN}
                learn = partial(bed.fitted, method, settings, examples, tasks=(skill,))
                made, then = timed(learn)
            scores |= bed.ask(made.for_task(skill).source(), (skill,))
            total += first + then
            numbers = [known.record["trained_numbers"], made.record["trained_numbers"]]
        if trains == "z" and numbers[1] >= _FEW * numbers[0]:
            raise ValueError(f"{numbers[1]} numbers are too many beside {numbers[0]}")
        return Cell(scores, total, {"numbers_of_modules": numbers[0], "trained_numbers": numbers[1]})

    return measure
