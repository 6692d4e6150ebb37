"""What a training will learn from, told before it begins: tasks, their parts and their shares. Loads no model."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from genepool.training.opened_training import OpenedTraining


@dataclass(frozen=True)
class PlannedTask:
    """What a training uses of one task.

    Attributes:
        task: its name.
        used: training examples that are learned from; of a conversation or a pair that has several, each one.
        portion: the part of its training split that is used.
        each_step: how many of them a step has, on average.
        texts: whether they are windows of plain text.
        window: characters of a window, at most.
    """

    task: str
    used: int
    portion: float
    each_step: float
    texts: bool
    window: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def plan_lessons(opened: OpenedTraining) -> list[PlannedTask]:
    """What is used of each task that is trained on, in their order.

    Args:
        opened: the training.
    """
    recipe, lessons = opened.recipe, opened.lessons
    used = Counter(lesson.task.name for lesson in lessons.train)
    weights = {task.name: float(used[task.name]) for task in lessons.tasks} if recipe.shares is None else recipe.shares
    if recipe.made_objective().equal_parts:
        weights = dict.fromkeys(weights, 1.0)
    total = sum(weights[task.name] for task in lessons.tasks)
    return [
        PlannedTask(
            task.name,
            used[task.name],
            (recipe.portions or {}).get(task.name, 1.0),
            recipe.batch * weights[task.name] / total,
            not any(one.example.prompt for one in lessons.train if one.task is task) and used[task.name] > 0,
            task.settings.window,
        )
        for task in lessons.tasks
    ]
