"""Tasks on disk: a folder per task with JSONL splits and an optional task.yaml, or a single JSONL file.

DIR/<task>/{train,valid,test}.jsonl     one object a line: {"id", "prompt", "answer"} and optionally "choices"
DIR/<task>/task.yaml                    see `TaskSettings`
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool.errors import InputError, nearest
from genepool.schema import read_yaml, validate
from genepool.tasks.task import Example, Task, TaskSettings

SETTINGS_FILE = "task.yaml"
_KEYS = ("id", "prompt", "answer", "choices")


def load_tasks(path: str | Path, names: Sequence[str] | None = None) -> list[Task]:
    """Every task of a folder, by name; or the task in one JSONL file.

    Args:
        path: a folder of task folders, one task folder, or a file.
        names: only these, in this order.

    Raises:
        InputError: nothing is there, a name is unknown, or a file is wrong; the file and line are named.
    """
    path = Path(path)
    if path.is_file():
        folders = {path.stem: path}
    elif not path.is_dir():
        raise InputError("no such folder or file of tasks", where=path, fix="Check the path")
    elif _split_files(path):
        folders = {path.resolve().name: path}
    else:
        folders = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir() and _split_files(folder)}
        for file in sorted(path.glob("*.jsonl")):
            if file.stem in folders:
                raise InputError(f"a folder and a file are both the task '{file.stem}'", where=file, fix="Rename one")
            folders[file.stem] = file
    if not folders:
        raise InputError("no tasks here", where=path, fix="A task is a folder with train, valid or test .jsonl files")
    for name in names or ():
        if name not in folders:
            raise InputError(f"no task '{name}'", where=path, fix=nearest(name, folders))
    return [_load_one(folders[name]) for name in dict.fromkeys(names or folders)]


def _load_one(path: Path) -> Task:
    if path.is_file():
        return Task(path.stem, {"all": read_examples(path)})
    settings = TaskSettings()
    if (path / SETTINGS_FILE).is_file():
        settings = validate(TaskSettings, read_yaml(path / SETTINGS_FILE), path / SETTINGS_FILE)
    splits = {file.stem: read_examples(file, settings) for file in _split_files(path)}
    return Task(path.resolve().name, splits, settings)


def _split_files(folder: Path) -> list[Path]:
    return [folder / f"{split}.jsonl" for split in ("train", "valid", "test") if (folder / f"{split}.jsonl").is_file()]


def read_examples(path: Path, settings: TaskSettings | None = None) -> tuple[Example, ...]:
    """The examples of one JSONL file, in order.

    Args:
        path: the file.
        settings: of the task they belong to; its metric may ask more of an example.

    Raises:
        InputError: naming the line that is not an example.
    """
    examples: list[Example] = []
    lines: dict[str, int] = {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path, fix="It must be text in UTF-8") from None
    # Split at newlines only: other line separators of Unicode may stand inside an answer.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"this line is not JSON ({error})", where=where, fix="Correct or remove it") from None
        example = example_from(data, where, default_id=str(number))
        _check_metric(example, settings or TaskSettings(), where)
        if example.id in lines:
            raise InputError(
                f"id {example.id!r} stands on line {lines[example.id]} already", where=where, fix="Give each its own id"
            )
        lines[example.id] = number
        examples.append(example)
    if not examples:
        raise InputError(
            "the file has no examples", where=path, fix='Write lines like {"prompt": "2+2=", "answer": "4"}'
        )
    return tuple(examples)


def example_from(data: Any, where: str, default_id: str = "0") -> Example:
    """An example from what a JSONL line held.

    Raises:
        InputError: a key is missing, unknown, or of the wrong kind.
    """
    if not isinstance(data, Mapping):
        raise InputError("not an object", where=where, fix='Write {"prompt": ..., "answer": ...}')
    for key in data:
        if key not in _KEYS:
            raise InputError(f"unknown key '{key}'", where=where, fix=nearest(str(key), _KEYS))
    if not isinstance(data.get("prompt"), str):
        raise InputError("`prompt` must be text", where=where, fix="Add it")
    answer = data.get("answer")
    answers: list[Any] = answer if isinstance(answer, list) else [answer]
    if not answers or not all(isinstance(item, str) for item in answers):
        raise InputError(
            "`answer` must be text, or a list of accepted texts", where=where, fix="Write numbers in quotes"
        )
    choices = data.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(item, str) for item in choices):
        raise InputError("`choices` must be a list of texts", where=where, fix="Write numbers in quotes")
    if choices and not set(answers) & set(choices):
        raise InputError("the answer is not among the choices", where=where, fix="Write it exactly as one of them")
    if "" in choices:
        raise InputError("an empty choice, which is always the likeliest", where=where, fix="Write something in it")
    identity = data.get("id", default_id)
    if not isinstance(identity, str | int):
        raise InputError("`id` must be text", where=where, fix="Give it a short name")
    example = Example(str(identity), data["prompt"], tuple(answers), tuple(choices))
    try:
        "".join([example.id, example.prompt, *answers, *choices]).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"holds half a character ({error.reason})", where=where, fix="Write it in UTF-8") from None
    return example


def _check_metric(example: Example, settings: TaskSettings, where: str) -> None:
    if settings.metric == "multiple_choice" and len(set(example.choices)) < 2:
        raise InputError("multiple_choice needs `choices`, two at least", where=where, fix="Add them")
    if settings.metric in ("contains", "regex") and "" in example.answers:
        raise InputError("an empty answer, which is found in every output", where=where, fix="Write something in it")
    for pattern in example.answers if settings.metric == "regex" else ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"not a regular expression ({error})", where=where, fix="Correct it") from None
