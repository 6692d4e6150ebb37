"""The folder of tasks learned one after another: its files, and how they are read back. Loads no model.

DIR/training.yaml          the recipe, with paths that can be found from anywhere
DIR/run.sqlite             the outcome of every test example after every task (`record`)
DIR/tasks/NNNN/            the NNNN-th task: a training's files; what is kept (memory.safetensors, memory.json); for
                           learners that merge merged.safetensors; for learners
                           with values for each task asked/NNNN/, what that task is asked with; for learners whose
                           adapters are retrieved composition/; task.json, written last: the task is learned
DIR/adapter/, DIR/skill.safetensors, DIR/composition/      the result
DIR/train.json             what was gained and what was forgotten, the matrix among it; written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genepool import staging
from genepool.checked import is_digest, is_number, is_text, is_whole, parsed_json
from genepool.errors import InputError
from genepool.training.folder import RESULT_FILE, RESULTS, read_result

TASKS, MARK, MERGED, ASKED, COMPOSED = "tasks", "task.json", "merged.safetensors", "asked", "composition"

#: Of a composition what it cannot be asked without.
COMPOSITION_FILES = ("composition.json", "router.safetensors")


@dataclass(frozen=True)
class LearnedTask:
    """A task that is learned.

    Attributes:
        folder: its folder.
        tasks: names of what was learned in it: one task, or those that are learned together.
        result: what was trained, relative to the folder.
        merged: whether the model that stands after it is a merge, in `merged.safetensors`.
        steps: that were taken.
        examples: that were in them.
        learning_rate: the largest.
        memory_bytes: what the learner keeps after it.
        facts: what the learner says of its memory.
        views: how many of the tasks so far are asked with values of their own, in `asked`: all of them, or none.
        compute: operations that learning it took.
        composed: whether what stands after it is a composition, in `composition`.
        memory: SHA-256, hex, of the files of what the learner keeps; empty where an older version did not say it.
    """

    folder: Path
    tasks: tuple[str, ...]
    result: str
    merged: bool
    steps: int
    examples: int
    learning_rate: float
    memory_bytes: int
    facts: Mapping[str, Any]
    views: int = 0
    compute: int = 0
    composed: bool = False
    memory: str = ""

    def view(self, number: int) -> Path:
        """What one of the tasks so far, counted from 0, is asked with after this one."""
        return view_place(self.folder, number) / self.result

    @property
    def trained(self) -> Path:
        """What was trained."""
        return self.folder / self.result

    def write(self) -> None:
        """Says that the task is learned."""
        told = {
            "schema": 1,
            "tasks": list(self.tasks),
            "result": self.result,
            "merged": self.merged,
            "steps": self.steps,
            "examples": self.examples,
            "learning_rate": self.learning_rate,
            "memory_bytes": self.memory_bytes,
            "facts": dict(self.facts),
            "views": self.views,
            "compute": self.compute,
            "composed": self.composed,
            "memory": self.memory,
        }
        text = json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        staging.write_text(self.folder / MARK, text)


def task_folder(out: Path, number: int) -> Path:
    """Where a task is learned; counted from 0."""
    return out / TASKS / f"{number + 1:04d}"


def remove_after(out: Path, number: int) -> None:
    """Removes the tasks after one: what they hold was made from what that one had made before it was removed.

    Args:
        out: the run's folder.
        number: of the task, counted from 0.
    """
    last = task_folder(out, number).name
    for path in sorted((out / TASKS).iterdir()) if (out / TASKS).is_dir() else []:
        if path.name > last:
            shutil.rmtree(path)


def view_place(folder: Path, number: int) -> Path:
    """The folder, in that of a task, of what one of the tasks so far, counted from 0, is asked with."""
    return folder / ASKED / f"{number + 1:04d}"


def read_learned(folder: Path, tasks: tuple[str, ...]) -> LearnedTask | None:
    """What a learned task left; None where it is not learned yet.

    Args:
        folder: of the task.
        tasks: names of what is learned in it.

    Raises:
        InputError: it is damaged, or of other tasks.
    """
    path = folder / MARK
    if not path.is_file():
        return None
    fix = f"Remove {folder}: the task and those after it are learned again"
    try:
        told = parsed_json(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or told.get("schema") != 1 or told["result"] not in RESULTS:
            raise ValueError
        fits = (
            isinstance(told["tasks"], list)
            and all(map(is_text, told["tasks"]))
            and isinstance(told["merged"], bool)
            and all(is_whole(told[key], 0) for key in ("steps", "examples", "memory_bytes"))
            and is_number(told["learning_rate"])
            and isinstance(told["facts"], dict)
            and is_whole(told.get("views", 0), 0, 10**6)
            and is_whole(told.get("compute", 0), 0)
            and isinstance(told.get("composed", False), bool)
            and (told.get("memory", "") == "" or is_digest(told["memory"]))
        )
        if not fits:
            raise ValueError
        names = ("result", "merged", "steps", "examples", "learning_rate", "memory_bytes", "facts")
        found = LearnedTask(folder, tuple(told["tasks"]), **{name: told[name] for name in names})
        further = {"views": 0, "compute": 0, "composed": False, "memory": ""}
        found = replace(found, **{name: told.get(name, default) for name, default in further.items()})
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError("is damaged", where=path, fix=fix) from None
    if found.tasks != tasks:
        what = f"is of {', '.join(found.tasks)!r:.60}, expected {', '.join(tasks)}"
        raise InputError(what, where=path, fix=fix)
    views = [found.view(number) for number in range(found.views)]
    composed = [folder / COMPOSED / name for name in COMPOSITION_FILES] if found.composed else []
    whole = [*([folder / MERGED] if found.merged else []), *composed]
    for needed in (found.trained, *whole, *views):
        if not needed.exists():
            raise InputError("what was trained is missing", where=needed, fix=fix)
    return found


def read_order(out: Path) -> dict[str, Any] | None:
    """What `train.json` of tasks learned one after another says; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    told = read_result(out)
    if told is not None:
        is_learned_in_order(told, out)
    return told


def is_learned_in_order(told: Mapping[str, Any], out: Path) -> bool:
    """Whether `train.json` is one of tasks learned one after another, with all that the table and the page need.

    Args:
        told: what it says.
        out: the folder it lies in, for errors.

    Raises:
        InputError: it is, and it is damaged.
    """
    if told.get("learner") is None:
        return False
    wrong = next((key for key, fits in _KEYS.items() if not fits(told.get(key))), None)
    if wrong := wrong or ("" if _fits_together(told) else "matrix"):
        raise InputError(
            "is damaged",
            where=f"{out / RESULT_FILE}:{wrong}",
            fix="Remove it and run the same command: it is written again",
        )
    return True


def _fits_together(told: Mapping[str, Any]) -> bool:
    """Whether the matrix has a row for every stage and a column for every task."""
    names, matrix, stages = told["sequence"], told["matrix"], told["stages"]
    return (
        {"acc", "bwt", "fwt", "forgetting"} <= told.keys()
        and all(len(line) == len(names) for line in (told["untrained"], *matrix))
        and len(stages) == len(matrix)
        and all(len(one["after"]) == len(matrix) for one in told["generic"])
        and all(one["tasks"] and set(one["tasks"]) <= set(names) for one in stages)
    )


def _are_scores(value: object) -> bool:
    return isinstance(value, list) and all(is_number(one, 0, 1) for one in value)


def _is_generic(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and is_text(one.get("task")) and is_number(one.get("before"), 0, 1)
        and _are_scores(one.get("after"))
        for one in value
    )  # fmt: skip


def _are_stages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("tasks"), list)
        and all(map(is_text, one["tasks"]))
        and is_digest(one.get("fingerprint"))
        and is_whole(one.get("steps"), 0)
        and is_whole(one.get("memory_bytes"), 0)
        and is_whole(one.get("examples"), 0)
        and (one.get("compute") is None or is_whole(one["compute"], 0))
        and (one.get("error") is None or is_number(one["error"], 0, 1))
        for one in value
    )


def _is_shared(value: object) -> bool:
    tasks = value.get("tasks") if isinstance(value, dict) else None
    pair = isinstance(tasks, list) and len(tasks) == 2 and all(map(is_text, tasks))
    return pair and isinstance(value, dict) and is_whole(value.get("examples"), 0)


def _is_kept(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("difference"), dict):
        return False
    numbers = [*map(value["difference"].get, ("mean", "lo", "hi")), *map(value.get, ("learned", "in_the_end"))]
    counts = map(value.get, ("n", "gained", "lost"))
    return is_text(value.get("task")) and all(map(is_number, numbers)) and all(is_whole(one, 0) for one in counts)


def _is_measure(value: object) -> bool:
    return value is None or is_number(value)


_KEYS: dict[str, Callable[[Any], bool]] = {
    "learner": is_text,
    "sequence": lambda value: isinstance(value, list) and all(map(is_text, value)),
    "untrained": _are_scores,
    "matrix": lambda value: isinstance(value, list) and all(map(_are_scores, value)),
    "generic": _is_generic,
    "stages": _are_stages,
    "memory_bytes": lambda value: is_whole(value, 0),
    "shared": lambda value: isinstance(value, list) and all(map(_is_shared, value)),
    "kept": lambda value: isinstance(value, list) and all(map(_is_kept, value)),
    "cost": lambda value: isinstance(value, dict) and is_whole(value.get("examples"), 0),
    "options": lambda value: isinstance(value, dict),
    **dict.fromkeys(("acc", "bwt", "fwt", "forgetting", "mean_error"), _is_measure),
    "total_compute": lambda value: value is None or is_whole(value, 0),
}
