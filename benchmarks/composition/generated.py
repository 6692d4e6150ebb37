"""Arms of adapters that are generated for a task that has none, and of the nearest task's adapter beside them.

A skill's task is new in turn: adapters of the other skills are what is learned from, and of the new task the inputs are
given alone.
"""

from __future__ import annotations

from functools import partial

from benchmarks.claims.worlds import Scores
from benchmarks.composition.bed import Bed, timed
from benchmarks.composition.cells import Cell
from genepool.composition import Composition, make_composer


def for_new_task(bed: Bed, examples: int, method: str) -> Cell:
    """Each skill's task is asked of the adapter that a composer generates for it.

    Args:
        bed: the testbed.
        examples: of each task.
        method: the composer, with its defaults.
    """
    scores: Scores = {}
    total = 0.0
    for skill in bed.skills:
        made, seconds = timed(partial(_generated, bed, examples, method, skill))
        scores |= bed.ask(made.source(), (skill,))
        total += seconds
    return Cell(scores, total)


def of_nearest_task(bed: Bed, examples: int) -> Cell:
    """Each skill's task is asked of the adapter of the other task whose inputs are nearest to it: the control."""
    scores: Scores = {}
    chosen: dict[str, str] = {}
    for skill in bed.skills:
        # A single step: what is nearest is told by the inputs alone.
        record = _generated(bed, examples, "icm_lora", skill, steps=1).record
        chosen[skill] = record["nearest"]["task"]
        [near] = bed.opened(make_composer("lorahub", {}), adapters=True, only=(chosen[skill],)).skills
        scores |= bed.ask(near.source, (skill,))
    return Cell(scores, 0.0, {"chosen": chosen})


def _generated(bed: Bed, examples: int, method: str, skill: str, **options: int) -> Composition:
    others = [one for one in bed.skills if one != skill]
    settings = {"target": skill, **options}
    return bed.fitted(method, settings, examples, adapters=True, only=others, tasks=bed.skills)
