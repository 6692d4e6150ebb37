"""Arms of compositions with modules beside frozen models: two parents of one pair, and tasks that are told.

`calm` and `x_cross` are given the two specialists that a pair of skills is made of, and examples of the pair. Tasks
that are told are asked of a classifier with a part for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.claims.worlds import Scores
from benchmarks.composition.bed import PAIR_TASKS, Bed, timed
from benchmarks.composition.cells import Cell
from genepool.composition import Composition, make_composer, open_skills
from genepool.composition import World as Given


def composed(
    bed: Bed, method: str, skills: Sequence[str], tasks: Sequence[str], examples: int, base: str
) -> Composition:
    """What a composer makes of some models.

    Args:
        bed: the testbed.
        method: the composer, with its defaults.
        skills: paths of models.
        tasks: what it is given.
        examples: of each.
        base: the path of the base.
    """
    composer = make_composer(method, {})
    opened = open_skills(base, list(skills), members=composer.members)
    return composer.fit(Given(opened, [bed.tasks[task] for task in tasks], examples=examples, seed=bed.seed))


def each_pair(bed: Bed, examples: int, method: str) -> Cell:
    """One composition for each pair of skills, of its two specialists, and asked about the pair alone.

    With CALM the specialist of the second skill attends to that of the first, whose work comes before its own.
    """
    scores: Scores = {}
    total = 0.0
    for pair in bed.pairs:
        first, second = (str(bed.bed.full[part]) for part in PAIR_TASKS[pair])
        parents = ([first], second) if method == "calm" else ([first, second], str(bed.bed.base))
        fit = partial(composed, bed, method, parents[0], [pair], examples, parents[1])
        made, seconds = timed(fit)
        scores |= bed.ask(made.source(), (pair,))
        total += seconds
    return Cell(scores, total)


def told_tasks(bed: Bed, examples: int, method: str, frozen: bool) -> Cell:
    """One composition for all skills' tasks, each asked of its own part.

    Args:
        bed: the testbed.
        examples: of each task.
        method: the composer.
        frozen: it is given the base alone, instead of all specialists.
    """
    base = str(bed.bed.base)
    skills = [base] if frozen else [str(bed.bed.full[skill]) for skill in bed.skills]
    tasks = bed.skills
    made, seconds = timed(partial(composed, bed, method, skills, tasks, examples, base))
    scores: Scores = {}
    for task in tasks:
        scores |= bed.ask(made.for_task(task).source(), (task,))
    return Cell(scores, seconds)
