"""What is told of tasks learned one after another: the matrix, its measures, and what became of every task.

Plain data out of the record; every average is computed from the outcomes of examples. Uses measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from genepool.measure import compare_many, continual_accuracy
from genepool.tasks.pairs import Pairs

if TYPE_CHECKING:
    from genepool.tasks import Task
    from genepool.training.continual.folder import LearnedTask
    from genepool.training.continual.record import SequenceRecord
    from genepool.training.opened_training import OpenedTraining


def shared_examples(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Pairs of tasks that hold the same examples in their training splits, or one in its test split.

    Returns:
        The names of both and the number of examples, for pairs that share any.
    """
    found = []
    for one, other in combinations(tasks, 2):
        keys = [
            {split: {e.key for e in task.splits.get(split, ())} for split in ("train", "test")} for task in (one, other)
        ]
        first, second = keys
        shared = first["train"] & second["train"] | first["train"] & second["test"] | first["test"] & second["train"]
        if shared:
            found.append({"tasks": [one.name, other.name], "examples": len(shared)})
    return found


def measured_sequence(opened: OpenedTraining, record: SequenceRecord, done: Sequence[LearnedTask]) -> dict[str, Any]:
    """The part of `train.json` about the order.

    Args:
        opened: the recipe, opened.
        record: with the outcomes of every stage.
        done: every task, learned.

    Returns:
        `sequence`: names of the tasks in order; `untrained`: the base's scores on them; `matrix`: scores after every
        stage, a row each; `acc`, `bwt`, `fwt`, `forgetting`: see `genepool.measure.continual_accuracy`, None where
        tasks were learned together; `kept`: by task but the last, its examples after it was learned and in the end,
        paired; `generic`: scores on the tasks that were not learned; `stages`: what each task cost, with `error`, 1
        minus the score of its tasks right after it, and `compute`, the operations that learning it took; `mean_error`
        and `total_compute`: the same of all stages (the measure of NEVIS'22, arXiv:2211.11747); `memory_bytes`: what
        is kept in the end; `shared`: tasks that hold the same examples.
    """
    names = [task.name for task in opened.targets]
    others = [task.name for task in opened.others]
    last = len(done)
    means = {
        (stage, name): float(record.scores(stage, name).mean())
        for stage in range(last + 1)
        for name in (*names, *others)
    }
    untrained = [means[0, name] for name in names]
    matrix = [[means[stage, name] for name in names] for stage in range(1, last + 1)]
    errors = [1 - sum(means[stage, name] for name in one.tasks) / len(one.tasks) for stage, one in enumerate(done, 1)]
    in_order = last == len(names)
    measures = continual_accuracy(matrix, untrained) if in_order else None
    return {
        "sequence": names,
        "untrained": untrained,
        "matrix": matrix,
        "acc": sum(matrix[-1]) / len(names),
        "bwt": None if measures is None else measures.backward_transfer,
        "fwt": None if measures is None else measures.forward_transfer,
        "forgetting": None if measures is None else measures.forgetting,
        "kept": _kept(record, names) if in_order else [],
        "generic": [
            {"task": name, "before": means[0, name], "after": [means[stage, name] for stage in range(1, last + 1)]}
            for name in others
        ],
        "stages": [
            {
                "tasks": list(one.tasks),
                "fingerprint": record.fingerprint(stage),
                "steps": one.steps,
                "examples": one.examples,
                "memory_bytes": one.memory_bytes,
                "error": errors[stage - 1],
                "compute": one.compute,
                "facts": dict(one.facts),
            }
            for stage, one in enumerate(done, 1)
        ],
        "mean_error": sum(errors) / last,
        "total_compute": sum(one.compute for one in done),
        "memory_bytes": done[-1].memory_bytes,
        "shared": shared_examples(opened.lessons.tasks),
    }


def _kept(record: SequenceRecord, names: Sequence[str]) -> list[dict[str, Any]]:
    """By task but the last: what it answered when it was learned, and answers in the end."""
    pairs = [
        Pairs(name, record.scores(stage, name), record.scores(len(names), name), None)
        for stage, name in enumerate(names[:-1], 1)
    ]
    (compared,) = compare_many("learned", {"in the end": pairs})
    return [
        {
            "task": one.task,
            "n": one.n,
            "learned": one.old.mean,
            "in_the_end": one.new.mean,
            "difference": {"mean": one.difference.difference, "lo": one.difference.lo, "hi": one.difference.hi},
            "p": one.p,
            "verdict": one.verdict,
            "gained": one.compatibility.matrix.gained,
            "lost": one.compatibility.matrix.lost,
        }
        for one in compared.tasks
    ]
