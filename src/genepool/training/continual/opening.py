"""A recipe that names a learner, opened and checked: a model, and at least two tasks. Headers and task files only."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.training.opened_training import OpenedTraining
from genepool.training.recipe import Training


def open_sequence(
    recipe: Training, *, others: bool = True, trusted: Collection[str | Path] = (), allow_pickle: bool = False
) -> OpenedTraining:
    """Opens and checks everything a recipe with a learner names.

    Args:
        recipe: the training.
        others: also open the tasks that must not be forgotten.
        trusted, allow_pickle: as for `run_sequence`.

    Raises:
        InputError: a model or a task is wrong, the learner cannot teach such a model, or there are no two tasks.
    """
    if len(recipe.tasks) < 2:
        raise InputError(
            f"the learner {recipe.learner} got 1 task, expected at least 2, which are learned one after the other",
            where=recipe.tasks[0],
            fix="Name more tasks, or leave --learner out",
        )
    opened = OpenedTraining.open(recipe, others=others, trusted=trusted, allow_pickle=allow_pickle)
    names = [task.name for task in opened.lessons.tasks]
    if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
        raise InputError(f"two tasks are called '{twice}'", where=recipe.tasks[0], fix="Give each its own name")
    if recipe.made_learner().classes_only and "classes" not in (kind := open_model(opened.base).kind).can:
        raise InputError(
            f"the learner {recipe.learner} needs a model that tells classes, got {kind.kind}",
            where=recipe.base,
            fix="Name an image or text classifier, or another learner",
        )
    searched = recipe.made_learner().trials(recipe.seed, 0)
    judged = {lesson.task.name for lesson in opened.lessons.valid}
    if searched and (without := next((name for name in names if name not in judged), None)):
        raise InputError(
            "has no validation examples, which the search for a learning rate needs",
            where=without,
            fix="Add a valid.jsonl to its folder, or set trials to 1",
        )
    if opened.head is not None:
        raise InputError(
            "has no head for the classes of the tasks, and a learner goes on with one that it has",
            where=recipe.base,
            fix="Train one task first, and name BASE+DIR/adapter",
        )
    recipe.made_learner().check(opened)
    return opened
