"""Examples of earlier tasks that are kept for rehearsal: which, within what budget, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genepool.seeding import numpy_generator
from genepool.training.continual.memory import KeptExample, Memory, example_bytes

if TYPE_CHECKING:
    from genepool.training.examples import TrainingExample


def keep_examples(
    memory: Memory, lessons: Sequence[TrainingExample], *, seed: int, most: int, budget: int | None = None
) -> tuple[KeptExample, ...]:
    """The examples that are kept when one more task was learned.

    Args:
        memory: what was kept before it.
        lessons: the training examples of the task.
        seed: decides which of them are kept.
        most: of each task, at most.
        budget: bytes of the content of all of them; each task has an equal part. None: no limit.

    Returns:
        Those of the earlier tasks first. Where the parts get smaller, the last examples of a task are let go.
    """
    order = numpy_generator(seed, "kept").permutation(len(lessons))[:most].tolist()
    chosen = [lessons[place] for place in order]
    added = [KeptExample(one.task.name, one.example.key, example_bytes(one.example)) for one in chosen]
    kept = [*memory.examples, *dict.fromkeys(added)]
    if budget is None:
        return tuple(kept)
    tasks = dict.fromkeys(one.task for one in kept)
    room = dict.fromkeys(tasks, budget // len(tasks))
    within = []
    for one in kept:
        if one.bytes <= room[one.task]:
            within.append(one)
            room[one.task] -= one.bytes
        else:
            room[one.task] = 0
    return tuple(within)


def draw_kept(
    memory: Memory,
    earlier: Mapping[tuple[str, str], TrainingExample],
    count: int,
    *,
    seed: int,
    purpose: str,
    step: int,
) -> list[TrainingExample]:
    """Kept examples for a step, drawn evenly; one comes twice only where fewer are kept than are drawn."""
    kept = memory.examples
    chosen = numpy_generator(seed, purpose, step).choice(len(kept), count, replace=count > len(kept)).tolist()
    return [earlier[kept[place].task, kept[place].key] for place in chosen]
