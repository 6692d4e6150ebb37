"""A training with its base and its tasks opened and checked; headers and task files only. Uses weights and tasks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.tasks import Task, load_tasks, open_model
from genepool.training.lessons import Lessons, load_lessons
from genepool.training.recipe import Training
from genepool.weights import Weights, open_weights


@dataclass(frozen=True)
class Opened:
    """A recipe with its base (headers read) and its tasks.

    Attributes:
        recipe: the training.
        base: the model that is trained.
        lessons: what it learns from.
        others: tasks that must not be forgotten.
    """

    recipe: Training
    base: Weights
    lessons: Lessons
    others: tuple[Task, ...]
    allow_pickle: bool = False

    @classmethod
    def open(
        cls,
        recipe: Training,
        *,
        others: bool = True,
        trusted: Collection[str | Path] = (),
        allow_pickle: bool = False,
    ) -> Opened:
        """Opens and checks everything a recipe names.

        Raises:
            InputError: a model or a task is wrong, or nothing can be learned from them.
        """
        base = open_weights(recipe.base, allow_pickle=allow_pickle)
        tasks = [load_lessons(path) for path in recipe.tasks]
        lessons = Lessons(tasks, seed=recipe.seed, valid=recipe.valid)
        kept = _others(recipe, tasks, trusted) if others else ()
        return cls(recipe, base, lessons, kept, allow_pickle)

    def settings(self, threads: int) -> dict[str, Any]:
        """Everything that decides the bits of the result, as plain data."""
        recipe = self.recipe.model_dump(mode="json", exclude={"tasks", "others", "base", "test", "teacher", "threads"})
        teacher = self.recipe.teacher
        return {
            **recipe,
            "base": self.base.fingerprint(),
            "tasks": [task.name for task in self.lessons.tasks],
            "lessons": self.lessons.digest(),
            "threads": threads,
            **({} if teacher is None else {"teacher": open_model(teacher, allow_pickle=self.allow_pickle).fingerprint}),
        }


def _others(recipe: Training, tasks: list[Task], trusted: Collection[str | Path]) -> tuple[Task, ...]:
    """The tasks that must not be forgotten: those that were named, or the folders beside the first task's."""
    first = Path(recipe.tasks[0])
    if recipe.others is not None:
        found = load_tasks(recipe.others, trusted=trusted)
    elif first.is_dir():
        beside = sorted(path for path in first.resolve().parent.iterdir() if path.is_dir())
        found = [task for path in beside if any(path.glob("test.*")) for task in load_tasks(path)]
    else:
        found = []
    return tuple(task for task in found if task.name not in {one.name for one in tasks})
