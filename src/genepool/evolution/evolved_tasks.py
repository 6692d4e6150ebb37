"""Where the tasks of a file of `mergekit-evolve` are: folders of ours, task files of lm-eval, or lm-eval's own.

A task that is not on this machine is refused by its name, before anything else is opened. Uses tasks; `mergekit_evolve`
asks here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.tasks.files import has_task, load_tasks
from genepool.tasks.harness_files import find_task_file
from genepool.tasks.harness_tasks import PREFIX, Notation, metrics_of
from genepool.tasks.trust import check_trusted

if TYPE_CHECKING:
    from genepool.evolution.mergekit_evolve import EvolvedTask, EvolveFile
    from genepool.tasks import Task

# lm-eval calls a metric of answers that no filter went over "NAME,none".
_NO_FILTER = "none"
# The metric that mergekit reads where the file names none, and what it is called for tasks of ours.
_USUAL, _SAME = "acc", ("acc", "exact_match", "multiple_choice")


def chosen_tasks(
    file: EvolveFile, where: str, model: str, folders: Sequence[str | Path], trusted: Collection[str | Path] = ()
) -> dict[str, Any]:
    """`dir`, `names` and `weights` of a study's tasks.

    Args:
        file: the file.
        where: its path, for errors.
        model: the first of its models, whose chat template decides where the file does not.
        folders: where tasks are looked for by name, before lm-eval's own.
        trusted: files of tasks that may run code.

    Raises:
        InputError: a task is not on this machine, is there in another way than the file wants it, or they are not all
            in one place.
    """
    names = [task.name for task in file.tasks]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"'{name}' is named twice", where=f"{where}:tasks[{i}]", fix="Name each task once")
    if not any(task.weight for task in file.tasks):
        raise InputError("no task has a weight above zero", where=f"{where}:tasks", fix="Give one to a task")
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError("no such folder", where=f"--tasks {folder}", fix="Check the path")
    places: dict[str, str] = {}
    weights: dict[str, float] = {}
    for i, task in enumerate(file.tasks):
        place = f"{where}:tasks[{i}]"
        held = next((one for one in folders if has_task(one, task.name)), None)
        if held is not None:
            _check_as_it_is(task, load_tasks(held, [task.name])[0], file, place)
            places[task.name], weights[task.name] = str(Path(held).resolve()), task.weight
            continue
        notation, leaves = _of_lm_eval(task, file, place, model, folders, trusted)
        places[task.name] = PREFIX + notation
        weights |= dict.fromkeys(leaves, task.weight / len(leaves))
    used = list(dict.fromkeys(places.values()))
    if all(one.startswith(PREFIX) for one in used):
        return {"dir": PREFIX + ",".join(one.removeprefix(PREFIX) for one in used), "weights": weights}
    if len(used) > 1:
        first, second = (next(name for name, at in places.items() if at == one) for one in used[:2])
        raise InputError(
            f"{first} lies in {used[0]} and {second} in {used[1]}, and a study reads one place",
            where=f"{where}:tasks",
            fix="Put them into one folder",
        )
    return {"dir": used[0], "names": names, "weights": weights}


def _check_as_it_is(task: EvolvedTask, found: Task, file: EvolveFile, place: str) -> None:
    """Refuses a wish of the file that a task of ours, which says by itself how it is put, does not fulfil."""
    asked = (task.metric or _USUAL).partition(",")[0]
    own = found.settings.metric
    if asked != own and not (asked == _USUAL and (task.metric is None or own in _SAME)):
        raise InputError(
            f"the file wants '{task.metric}' of {task.name}, whose task.yaml says `metric: {own}`",
            where=f"{place}.metric",
            fix=f"Write {own} there, or change the task",
        )
    if file.num_fewshot is not None and file.num_fewshot != found.settings.few_shot:
        raise InputError(
            f"the file wants {file.num_fewshot} solved examples before each question of {task.name}, whose task.yaml "
            f"says `few_shot: {found.settings.few_shot}`",
            where=place,
            fix="Make them equal, or leave num_fewshot out",
        )


def _of_lm_eval(
    task: EvolvedTask,
    file: EvolveFile,
    place: str,
    model: str,
    folders: Sequence[str | Path],
    trusted: Collection[str | Path],
) -> tuple[str, tuple[str, ...]]:
    """The notation of a task of lm-eval, and the names of its leaf tasks."""
    found = next(filter(None, (find_task_file(folder, task.name) for folder in folders)), None)
    name = task.name if found is None else str(found)
    if found is not None:
        check_trusted(found, trusted, "is a task file of lm-eval, which can run code")
    try:
        metrics = metrics_of(name)
    except InputError as error:
        among = f"is in no folder of --tasks ({', '.join(map(str, folders))})" if folders else "no --tasks is given"
        raise InputError(
            f"the task '{task.name}' is not on this machine: {among}, and {error.what}",
            where=place,
            fix=f"Name a folder that holds it with --tasks. {error.fix}",
        ) from None
    chat = _has_chat_template(model) if file.apply_chat_template is None else file.apply_chat_template
    if chat and file.num_fewshot and not file.fewshot_as_multiturn:
        raise InputError(
            "solved examples are turns of the conversation where there is a chat template",
            where=place.partition(":tasks")[0] + ":fewshot_as_multiturn",
            fix="Leave it out, or write apply_chat_template: false",
        )
    return str(Notation(name, file.num_fewshot, chat, _metric(task, metrics, place))), tuple(metrics)


def _metric(task: EvolvedTask, metrics: dict[str, tuple[str, ...]], place: str) -> str | None:
    """The metric of a task as its notation has it; None where the file names none and lm-eval's usual one serves."""
    if task.metric is None:
        return _USUAL if all(_USUAL in own for own in metrics.values()) else None
    name, _, pipe = task.metric.partition(",")
    for leaf, own in metrics.items():
        if name not in own:
            raise InputError(f"{leaf} has no metric '{name}'", where=f"{place}.metric", fix=f"It has: {', '.join(own)}")
    return name if pipe in ("", _NO_FILTER) else f"{name}/{pipe}"


def _has_chat_template(model: str) -> bool:
    from genepool.weights import open_weights

    folder = open_weights(model).folder
    if folder is None:
        return False
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))
