"""The folder of a project, written whole or not at all, and the commands that come next.

Uses the texts and the examples of this room; the command line calls `write_project`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genepool.own_inputs import refuse_own_input
from genepool.projects import examples
from genepool.projects.family import Family
from genepool.projects.recipes import choose, recipe_text, study_text, training_text
from genepool.staging import staged_folder
from genepool.tasks.files import SETTINGS_FILE

RECIPE, STUDY, TRAINING, TASKS, README = "recipe.yaml", "study.yaml", "training.yaml", "tasks", "README.md"
_FORMS = {"model": "a whole model", "adapter": "an adapter", "skill": "a skill"}


@dataclass(frozen=True)
class Project:
    """What was written.

    Attributes:
        folder: where.
        files: the files to change, relative to it.
        commands: what to type next, from where the user stands.
    """

    folder: Path
    files: tuple[str, ...]
    commands: tuple[str, ...]


def write_project(family: Family, folder: str | Path, *, overwrite: bool = False) -> Project:
    """Writes recipe, study, training, an example task and a README for a family of models.

    Args:
        family: the models.
        folder: appears whole or not at all. Relative names of models are written as they are found from there.
        overwrite: replace what is at `folder`.

    Raises:
        InputError: something is there and `overwrite` is false, a model lies there, or it cannot be written.
    """
    refuse_own_input(folder, (family.base, *(one.model for one in family.members)))
    out = Path(os.path.abspath(folder))

    def place(model: str) -> str:
        return placed(model, out)

    texts = {
        RECIPE: recipe_text(family, place),
        # Candidates that cannot be asked cannot be searched for.
        **({} if family.headless else {STUDY: study_text(family, place)}),
        TRAINING: training_text(family, place, examples.NAME),
    }
    with staged_folder(out, overwrite=overwrite) as staging:
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8")
        examples.write_example(staging / TASKS / examples.NAME, family.kind, family.config, headless=family.headless)
        (staging / README).write_text(_readme(family, _commands(family, Path(), place)), encoding="utf-8")
    task = f"{TASKS}/{examples.NAME}"
    files = (*texts, f"{task}/{SETTINGS_FILE}", *(f"{task}/{split}.jsonl" for split in examples.SPLITS), README)
    return Project(out, files, _commands(family, Path(folder), str))


def placed(model: str, folder: Path) -> str:
    """A model's name as it is found from a folder: relative paths of the disk lead from there, all else stays.

    Args:
        model: as it is found from the current folder; each part of a name with "+" by itself.
        folder: an absolute path.
    """
    if not _is_relative_path(model):
        parts = model.split("+")
        return "+".join(placed(part, folder) for part in parts) if len(parts) > 1 else model
    # Two dots lead from where the folder really is, whatever link it is named by.
    return os.path.relpath(os.path.abspath(model), os.path.realpath(folder))


def _is_relative_path(model: str) -> bool:
    return not os.path.isabs(model) and not model.startswith("~") and os.path.exists(model)


def _commands(family: Family, home: Path, place: Callable[[str], str]) -> tuple[str, ...]:
    """What to type next.

    Args:
        family: the models.
        home: the project's folder, as it is named where one types.
        place: a model's name there.
    """

    def at(name: str) -> str:
        return shlex.quote(str(home / name))

    merge = (f"genepool plan {at(RECIPE)}", f"genepool merge {at(RECIPE)} {at('merged')}")
    train = f"genepool train {at(TRAINING)} --out {at('trained')}"
    if family.headless:
        trained = shlex.quote(f"{place(family.base)}+{home / 'trained' / 'adapter'}")
        return (*merge, train, f"genepool evaluate {trained} --tasks {at(TASKS)}")
    models = " ".join(shlex.quote(place(name)) for name in (family.base, *map(family.asked, family.members)))
    return (
        *merge,
        f"genepool evaluate {models} {at('merged')} --tasks {at(TASKS)}",
        f"genepool plan {at(STUDY)}",
        f"genepool evolve {at(STUDY)} --out {at('run')}",
        train,
    )


def _readme(family: Family, commands: Sequence[str]) -> str:
    """What the folder is, and what to do in it."""
    members = "\n".join(f"- `{one.model}`, {_FORMS[one.form]}" for one in family.members)
    steps = (_headless_steps if family.headless else _steps)(family, commands)
    return (
        f"# A project of {len(family.members) + 1} models\n\n"
        f"The base is `{family.base}` ({family.why}); made from it:\n\n"
        f"{members}\n\n"
        f"**First replace the example**: {TASKS}/{examples.NAME}/{README} says how. Then, in this folder:\n\n{steps}"
    )


def _steps(family: Family, commands: Sequence[str]) -> str:
    plan, merge, ask, plan_study, evolve, train = (f"    {line}\n" for line in commands)
    return (
        f"A merge, as {RECIPE} says. {choose(family).why}\n\n{plan}{merge}{ask}\n"
        f"A better one, searched as {STUDY} says; the page is run/report.html:\n\n{plan_study}{evolve}\n"
        f"One ability more, taught to the base as {TRAINING} says:\n\n{train}"
    )


def _headless_steps(family: Family, commands: Sequence[str]) -> str:
    plan, merge, train, ask = (f"    {line}\n" for line in commands)
    return (
        f"A merge, as {RECIPE} says. {choose(family).why}\n\n{plan}{merge}\n"
        "These models have no head, so they cannot be asked as they are. A training gives the base a head for the "
        f"classes of the task,\nas {TRAINING} says; then it can be asked:\n\n{train}{ask}"
    )
