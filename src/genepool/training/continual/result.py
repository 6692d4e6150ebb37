"""Writes what stands after a task, and after the last one, relative to the base. Uses staging and weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from genepool import staging
from genepool.training.opened_training import OpenedTraining
from genepool.training.summed_change import MergedResults, SummedChange
from genepool.weights import Form, Weights, open_change, store

_SKILL = "skill.safetensors"


def write_result(opened: OpenedTraining, out: Path, parts: Sequence[Path]) -> Path:
    """Writes the result of a run: a copy of what stands on the base, or the sum of the factors of all tasks.

    Args:
        opened: the recipe, opened.
        out: the run's folder.
        parts: adapters or a skill file in it; what goes onto the base.

    Returns:
        Where it is.
    """
    if len(parts) > 1:
        changes = [open_change(str(part), opened.base) for part in parts]
        change = SummedChange(changes, [part.relative_to(out).as_posix() for part in parts])
        words = {"name": ", ".join(task.name for task in opened.lessons.tasks)}
        arguments = {"learner": opened.recipe.learner, "seed": opened.recipe.seed, "genepool": version("genepool")}
        store(change, out / _SKILL, None, "train", arguments, words=words, overwrite=True)
        return out / _SKILL
    (part,) = parts
    result = out / (part.name if part.is_dir() else _SKILL)
    if part.is_dir():
        with staging.staged_folder(result, overwrite=True) as unfinished:
            shutil.copytree(part, unfinished, dirs_exist_ok=True)
    else:
        with staging.staged_path(result, overwrite=True) as unfinished:
            shutil.copyfile(part, unfinished)
    return result


def write_merged(
    opened: OpenedTraining, out: Path, merged: Weights, results: Sequence[Path], tasks: Sequence[str], place: Path
) -> None:
    """Writes a merge that stands after some tasks as a skill file, replacing what is there.

    Args:
        opened: the recipe, opened.
        out: the run's folder.
        merged: the model.
        results: what the tasks trained, in the run's folder.
        tasks: their names.
        place: of the file.
    """
    made_from = [one.relative_to(out).as_posix() for one in results]
    change = MergedResults(merged, opened.base, made_from)
    store(change, place, Form("dense"), "merge", words={"name": ", ".join(tasks)}, overwrite=True)
