"""What learning tasks in order will do, told before anything runs. Reads headers and task files only."""

from __future__ import annotations

from typing import Any

from genepool.training.continual.told import shared_examples
from genepool.training.opened_training import OpenedTraining


def plan_sequence(opened: OpenedTraining) -> dict[str, Any]:
    """What will be learned in which order, as plain data.

    Args:
        opened: a recipe with a learner, opened.

    Returns:
        `learner`, `sequence` (names), `steps` in all, `shared` examples of tasks, and `stages`: of each the tasks that
        are learned in it, their training examples, its steps, those of a search among them, how many test examples are
        asked after it, and how many `trials` a search has.
    """
    recipe, tasks = opened.recipe, opened.lessons.tasks
    limit = recipe.test
    asked = sum(len(task.examples("test")[:limit]) for task in (*opened.targets, *opened.others))
    stages = []
    for group in recipe.made_learner().groups(len(tasks)):
        names = [tasks[one].name for one in group]
        examples = sum(lesson.task.name in names for lesson in opened.lessons.train)
        trials = len(recipe.made_learner().trials(recipe.seed, 0))
        steps = recipe.steps * len(group) * (1 + trials)
        stages.append({"tasks": names, "examples": examples, "steps": steps, "asked": asked, "trials": trials})
    return {
        "learner": recipe.learner,
        "sequence": [task.name for task in tasks],
        "steps": sum(one["steps"] for one in stages),
        "shared": shared_examples(tasks),
        "stages": stages,
    }
