"""What a loop will do, and what it holds at once: told before anything runs. Reads headers and task files only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from genepool.training.loops.recipe import Loop
from genepool.training.loops.run import LoopRun
from genepool.training.loops.stages.train import TrainStage
from genepool.training.memory import plan_memory


def plan_loop(loop: Loop, *, trusted: Collection[str | Path] = (), allow_pickle: bool = False) -> dict[str, Any]:
    """What a loop will do, as plain data.

    Args:
        loop: the loop.
        trusted, allow_pickle: as for `run_loop`.

    Returns:
        `stages`: of every stage its round, its name, the lines that it writes, the samples and the steps, at most;
        `samples` and `steps` in all; `examples` of the tasks; `memory` of the largest training, bytes by part; `tasks`
        and `others`.

    Raises:
        InputError: something that the loop names is wrong, or cannot work together.
    """
    run = LoopRun(loop, Path(), trusted=trusted, allow_pickle=allow_pickle)
    examples = len(run.opened.lessons.train)
    lines = {"": examples}
    told = []
    for round_, _, stage in loop.plan():
        found = stage.planned(loop, lines)
        lines |= found.lines
        told.append(
            {
                "round": round_,
                "stage": stage.name,
                "lines": dict(found.lines),
                "samples": found.samples,
                "steps": found.steps,
            }
        )
    trainings = {
        str(recipe): recipe
        for _, _, stage in loop.plan()
        if isinstance(stage, TrainStage)
        for recipe in [stage.training(loop)]
    }
    memories = [plan_memory(replace(run.opened, recipe=recipe)) for recipe in trainings.values()]
    return {
        "rounds": loop.rounds,
        "stages": told,
        "samples": sum(one["samples"] for one in told),
        "steps": sum(one["steps"] for one in told),
        "examples": examples,
        "memory": max((memory.to_dict() for memory in memories), key=lambda one: one["total"]),
        "tasks": list(run.tasks),
        "others": [task.name for task in run.opened.others],
    }
