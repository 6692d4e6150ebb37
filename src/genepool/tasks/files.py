"""Tasks on disk: a folder per task with its splits and an optional task.yaml, a template, a single file, a Python file.

DIR/<task>/{train,valid,test}.jsonl     one object a line: {"id", "prompt", "answer"}, optionally "choices" and "tags";
                                        .csv and .parquet with columns of these names do as well; plain texts are
                                        .txt files, or lines with a "text"
DIR/<task>/template.yaml                instead: examples drawn from a seed, see `generated`
DIR/<task>/task.yaml                    see `TaskSettings`
"""

from __future__ import annotations

import runpy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from genepool.errors import InputError, nearest
from genepool.schema import read_yaml, validate
from genepool.tasks.generated import Template, template_task
from genepool.tasks.harness_tasks import PREFIX, tasks_named
from genepool.tasks.reading import ENDINGS, holds_texts, read_examples
from genepool.tasks.task import Task, TaskSettings
from genepool.tasks.texts import TEXT_ENDING
from genepool.tasks.trust import check_trusted

SETTINGS_FILE, TEMPLATE_FILE = "task.yaml", "template.yaml"
_SPLITS = ("train", "valid", "test")
_Kind = TypeVar("_Kind")


def load_tasks(
    path: str | Path, names: Sequence[str] | None = None, *, trusted: Collection[str | Path] = ()
) -> list[Task]:
    """Every task of a folder, by name; or the task, or tasks, of one file.

    Args:
        path: a folder of task folders, one task folder, a file of examples, or a Python file, which is run: every
            `Task` among its names is taken. Or "lm-eval:NAME", tasks of lm-evaluation-harness, see `lm_eval_tasks`.
        names: only these, in this order.
        trusted: files that may run code: Python files, and lm-eval's own task files. What names a file (a study) cannot
            allow it; whoever calls this does.

    Raises:
        InputError: nothing is there, a name is unknown, a file is wrong, or one that runs code is not trusted; the file
            and line are named.
    """
    if str(path).startswith(PREFIX):
        found = tasks_named(str(path), trusted=trusted)
        return _chosen({task.name: task for task in found}, names, Path(path))
    path = Path(path)
    if path.is_file() and path.suffix == ".py":
        check_trusted(path, trusted, "is Python code, which runs to make its tasks")
        return _chosen({task.name: task for task in _python_tasks(path)}, names, path)
    if path.is_file():
        folders = {path.stem: path}
    elif not path.is_dir():
        raise InputError("no such file or folder", where=path, fix="Check the path")
    elif _holds_task(path):
        folders = {path.resolve().name: path}
    else:
        folders = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir() and _holds_task(folder)}
        for file in sorted(file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file()):
            if file.stem in folders:
                raise InputError(
                    f"{folders[file.stem].name} is also the task '{file.stem}'", where=file, fix="Rename one"
                )
            folders[file.stem] = file
    if not folders:
        raise InputError(
            "holds no tasks", where=path, fix="A task is a folder with train, valid or test .jsonl files, or a template"
        )
    return [_load_one(folder) for folder in _chosen(folders, names, path)]


def has_task(folder: str | Path, name: str) -> bool:
    """Whether a folder of tasks has one of this name, or is that task; nothing is read."""
    folder = Path(folder)
    if Path(name).name != name:
        return False
    if _holds_task(folder):
        return folder.resolve().name == name
    return _holds_task(folder / name) or any((folder / f"{name}{ending}").is_file() for ending in ENDINGS)


def _chosen(known: dict[str, _Kind], names: Sequence[str] | None, path: Path) -> list[_Kind]:
    for name in names or ():
        if name not in known:
            raise InputError(f"no task '{name}'", where=path, fix=nearest(name, known))
    return [known[name] for name in dict.fromkeys(names or known)]


def _load_one(path: Path) -> Task:
    if path.is_file():
        settings = _judged(TaskSettings(), path)
        return Task(path.stem, {"all": read_examples(path, settings)}, settings)
    settings = TaskSettings()
    if (path / SETTINGS_FILE).is_file():
        settings = validate(TaskSettings, read_yaml(path / SETTINGS_FILE), path / SETTINGS_FILE)
    name, template = path.resolve().name, path / TEMPLATE_FILE
    files = _split_files(path)
    if not template.is_file():
        settings = _judged(settings, next(iter(files.values())))
        return Task(name, {split: read_examples(file, settings) for split, file in files.items()}, settings)
    if files:
        raise InputError(
            "the task has example files and a template", where=template, fix=f"Remove it or {next(iter(files))}.*"
        )
    return template_task(name, validate(Template, read_yaml(template), template), settings, where=str(template))


def _judged(settings: TaskSettings, file: Path) -> TaskSettings:
    """The settings with the metric of plain texts, where no other is named and the file holds texts."""
    if "metric" in settings.model_fields_set or not holds_texts(file, settings):
        return settings
    return settings.model_copy(update={"metric": "likelihood"})


def _holds_task(folder: Path) -> bool:
    return bool(_split_files(folder)) or (folder / TEMPLATE_FILE).is_file()


def _split_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split in _SPLITS:
        files = [file for ending in (*ENDINGS, TEXT_ENDING) if (file := folder / f"{split}{ending}").is_file()]
        if len(files) > 1:
            raise InputError(f"{files[0].name} holds the same split", where=files[1], fix="Remove one of them")
        if files:
            found[split] = files[0]
    return found


def _python_tasks(path: Path) -> list[Task]:
    try:
        names = runpy.run_path(str(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"running it failed ({type(error).__name__}: {error})", where=path, fix="Correct it"
        ) from error
    found = {id(value): value for value in names.values() if isinstance(value, Task)}
    if not found:
        raise InputError("defines no tasks", where=path, fix="Define them at the top level: task = callable_task(...)")
    return list(found.values())
