"""Examples read from files: JSONL, CSV and Parquet, one example a line or row; and plain text, cut into windows.

Every mistake is told with its file and line. `files` finds the files; nothing here asks a model.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from genepool.bounded import bounded, read_text
from genepool.checked import is_text
from genepool.errors import InputError, nearest
from genepool.tasks.environments import EPISODE_KEYS, episode_of
from genepool.tasks.example import EXAMPLE_KEYS, Example
from genepool.tasks.images import ImageFile, find_image
from genepool.tasks.metrics import find_metric
from genepool.tasks.preferences import joined, label_of, split_sides
from genepool.tasks.task import TaskSettings
from genepool.tasks.texts import TEXT_ENDING, text_rows

#: Of a Parquet file, which may say in a few bytes what takes gigabytes: rows that any file may have, rows that are
#: decoded at once, and characters that it says, whatever its size and for each byte of it.
_FEW_ROWS, _PARQUET_ROWS, _PARQUET_BYTES, _PARQUET_FACTOR = 1_000, 1_000, 64 << 20, 100
_AS_JSONL = "Write it as JSONL"
ENDINGS = (".jsonl", ".csv", ".parquet")
_LISTS = ("choices", "tags")


def read_examples(path: Path, settings: TaskSettings | None = None) -> tuple[Example, ...]:
    """The examples of one file, in order.

    Args:
        path: the file; its ending decides: .jsonl, .csv (with a line of names), .parquet or .txt, which is one text.
        settings: of the task they belong to: its metric may ask more of an example, its `columns` rename keys.

    Raises:
        InputError: naming the line that is not an example.
    """
    path, settings = Path(path), settings or TaskSettings()
    examples: list[Example] = []
    labels: list[bool | None] = []
    lines: dict[str, int] = {}
    for line, data in _rows(path):
        where = f"{path}:{line}"
        for row in text_rows(_renamed(data, settings.columns, where), settings.window, str(line), where):
            label, example = _example_of(row, path, settings, where, str(line))
            labels.append(label)
            if example.id in lines:
                raise InputError(
                    f"id {example.id!r} is already on line {lines[example.id]}", where=where, fix="Give each its own id"
                )
            lines[example.id] = line
            examples.append(example)
    if not examples:
        raise InputError(
            "the file has no examples", where=path, fix='Write lines like {"prompt": "2+2=", "answer": "4"}'
        )
    if any(label is not None for label in labels):
        examples = joined(examples, labels, str(path))
    return tuple(examples)


def _example_of(
    data: Any, path: Path, settings: TaskSettings, where: str, default_id: str
) -> tuple[bool | None, Example]:
    """The example of a row under our own keys, and its label where it has one."""
    label: bool | float | None = None
    if isinstance(data, Mapping) and "label" in data:
        label, data = label_of(data, where), {key: value for key, value in data.items() if key != "label"}
    image = _image_of(data, path.parent, where) if settings.input == "image" else None
    example = replace(
        example_from(_without_image(data) if image else data, where, default_id), image=image, where=where
    )
    _check_answers(example, settings, where)
    # How good an answer is stays with it; whether it is good decides on which side it stands.
    if label is None or isinstance(label, bool):
        return label, example
    return None, replace(example, value=label)


def holds_texts(path: Path, settings: TaskSettings) -> bool:
    """Whether a file holds plain texts, as its first row says.

    Raises:
        InputError: the row cannot be read.
    """
    for line, data in _rows(Path(path)):
        renamed = _renamed(data, settings.columns, f"{path}:{line}")
        return isinstance(renamed, Mapping) and "text" in renamed
    return False


def read_numbers(path: Path, columns: Sequence[str]) -> tuple[list[float], ...]:
    """Columns of numbers, such as the points of a curve: one list for each name, in the order of the rows.

    Raises:
        InputError: a column is missing, a value is no number, or there are no rows; the line is named.
    """
    path = Path(path)
    found: tuple[list[float], ...] = tuple([] for _ in columns)
    for line, row in _rows(path):
        where = f"{path}:{line}"
        if not isinstance(row, Mapping):
            raise InputError("is not an object", where=where, fix='Write {"n": 100, "error": 0.2}')
        for column, values in zip(columns, found, strict=True):
            if column not in row:
                raise InputError(f"has no '{column}'", where=where, fix=nearest(column, map(str, row)))
            try:
                value = math.nan if isinstance(row[column], bool) else float(row[column])
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise InputError(f"got {row[column]!r} for {column}, expected a number", where=where, fix="Correct it")
            values.append(value)
    if not found[0]:
        raise InputError("the file has no rows", where=path, fix="Write one row for each point")
    return found


def example_from(data: Any, where: str, default_id: str = "0") -> Example:
    """An example from what a line held.

    Raises:
        InputError: a key is missing, unknown, or of the wrong kind.
    """
    if not isinstance(data, Mapping):
        raise InputError("is not an object", where=where, fix='Write {"prompt": ..., "answer": ...}')
    for key in data:
        if key not in EXAMPLE_KEYS:
            raise InputError(f"unknown key '{key}'", where=where, fix=nearest(str(key), EXAMPLE_KEYS))
    if "label" in data:
        raise InputError("a `label` has no effect here", where=where, fix="Leave it out")
    if "environment" in data:
        return _played(data, where, default_id)
    if alone := next((key for key in EPISODE_KEYS if key in data), None):
        raise InputError(f"has a `{alone}` and no `environment`", where=where, fix="Leave it out, or name one")
    if "image" in data:
        raise InputError("has an image, and the task shows text", where=where, fix="Set `input: image` in task.yaml")
    rejected: tuple[str, ...] = ()
    if "chosen" in data or "rejected" in data:
        data, rejected = split_sides(data, where)
    data, messages, given = _plain(data, where)
    if not isinstance(data.get("prompt"), str):
        raise InputError("`prompt` must be text", where=where, fix='Write {"prompt": "2+2=", "answer": "4"}')
    answer = data.get("answer")
    answers: list[Any] = answer if isinstance(answer, list) else [answer]
    if not answers or not all(isinstance(item, str) for item in answers):
        fix = "Write numbers in quotes" if "answer" in data else "Add it"
        raise InputError("`answer` must be text, or a list of accepted texts", where=where, fix=fix)
    choices, tags = (_texts(data, key, where) for key in _LISTS)
    if choices and not set(answers) & set(choices):
        raise InputError("the answer is not among the choices", where=where, fix="Write it exactly as one of them")
    if "" in choices:
        raise InputError("a choice is empty, and so always the likeliest", where=where, fix="Write something in it")
    example = Example(
        _identity(data, where, default_id),
        data["prompt"],
        tuple(answers),
        choices,
        tags,
        messages=messages,
        given=given,
        rejected=rejected,
    )
    try:
        said = [text for _, text in messages]
        "".join([example.id, example.prompt, *answers, *rejected, *choices, *tags, *said]).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"is not valid Unicode ({error.reason})", where=where, fix="Write it in UTF-8") from None
    return example


def _played(data: Mapping[str, Any], where: str, default_id: str) -> Example:
    """The example of a line that says an episode of an environment."""
    if also := next((key for key in data if key not in ("id", "tags", *EPISODE_KEYS)), None):
        raise InputError(f"has an episode of an environment and `{also}`", where=where, fix="Leave one of them out")
    episode = episode_of(data, where)
    identity = _identity(data, where, default_id)
    # People read what it is; a model is shown nothing, and nothing is the right answer.
    return Example(identity, episode.words, ("",), tags=_texts(data, "tags", where), episode=episode)


def _identity(data: Mapping[str, Any], where: str, default_id: str) -> str:
    identity = data.get("id", default_id)
    if not isinstance(identity, str | int) or not is_text(str(identity)):
        raise InputError("`id` must be text", where=where, fix="Give it a short name")
    return str(identity)


def _plain(data: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], tuple[tuple[str, str], ...], int]:
    """A line under the keys `prompt` and `answer`.

    With it come the conversation before the answer, where the line holds one, and how many of its turns are only
    shown.
    """
    if "completion" in data:
        if "answer" in data:
            raise InputError("has both `answer` and `completion`", where=where, fix="Leave one of them out")
        if _are_objects(data.get("prompt")) or _are_objects(data["completion"]):
            return _prompted(data, where)
        data = {**{key: value for key, value in data.items() if key != "completion"}, "answer": data["completion"]}
    if "messages" not in data:
        if _are_objects(data.get("prompt")):
            raise InputError(
                "`prompt` is a list of messages",
                where=where,
                fix="Write the conversation under `messages`, or its answer as messages under `completion`",
            )
        return data, (), 0
    if also := next((key for key in ("prompt", "answer", "choices") if key in data), None):
        raise InputError(f"has both `messages` and `{also}`", where=where, fix="Leave one of them out")
    *before, last = _messages(data, "messages", where) or [("", "")]
    if last[0] != "assistant" or not before:
        raise InputError(
            "a conversation must end with what the assistant answers",
            where=where,
            fix='End it with the role "assistant"',
        )
    return {**data, "prompt": before[-1][1], "answer": last[1]}, tuple(before), 0


def _prompted(data: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], tuple[tuple[str, str], ...], int]:
    """A conversation as TRL writes it: messages that are shown under `prompt`, those that are learned after them."""
    if "choices" in data:
        raise InputError("has both messages and `choices`", where=where, fix="Leave one of them out")
    shown, said = _messages(data, "prompt", where), _messages(data, "completion", where)
    if not shown or not said or said[-1][0] != "assistant":
        raise InputError(
            "a `completion` must end with what the assistant answers to a `prompt`",
            where=where,
            fix='End it with the role "assistant"',
        )
    before = [*shown, *said[:-1]]
    plain = {key: value for key, value in data.items() if key != "completion"}
    return {**plain, "prompt": before[-1][1], "answer": said[-1][1]}, tuple(before), len(shown)


def _messages(data: Mapping[str, Any], key: str, where: str) -> list[tuple[str, str]]:
    """(role, text) of every message under a key."""
    said = data.get(key)
    if not isinstance(said, list) or not all(map(_is_message, said)):
        raise InputError(
            f"`{key}` must be a list of a role and a content each",
            where=where,
            fix='Write {"role": "user", "content": "..."}',
        )
    return [(one["role"], one["content"]) for one in said]


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, Mapping) for one in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"role", "content"} and all(map(_is_text, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _image_of(data: Any, folder: Path, where: str) -> ImageFile:
    """The image of a line."""
    if not isinstance(data, Mapping) or "image" not in data:
        raise InputError(
            "has no `image`, and the task shows images", where=where, fix='Write {"image": "cat.png", "answer": "cat"}'
        )
    return find_image(data["image"], folder, where)


def _without_image(data: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of a line with an image; people read the file's name where there is no prompt."""
    return {"prompt": data["image"], **{key: value for key, value in data.items() if key != "image"}}


def _texts(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    given = data.get(key, [])
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise InputError(f"`{key}` must be a list of texts", where=where, fix="Write numbers in quotes")
    return tuple(given)


def _renamed(data: Any, columns: Mapping[str, str], where: str) -> Any:
    """The keys that `columns` names, under our own names; then other keys are no matter."""
    if not columns or not isinstance(data, Mapping):
        return data
    for ours, theirs in columns.items():
        if theirs not in data and ours not in _LISTS:
            raise InputError(f"has no key '{theirs}'", where=where, fix=nearest(theirs, map(str, data)))
    return {ours: data[theirs] for ours in EXAMPLE_KEYS if (theirs := columns.get(ours, ours)) in data}


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, what it says), read as the file's ending asks."""
    readers: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
        ".csv": _csv_rows, ".parquet": _parquet_rows, TEXT_ENDING: _plain_text,
    }  # fmt: skip
    return readers.get(path.suffix.lower(), _json_rows)(path)


def _plain_text(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The whole file as one row; none where it is blank."""
    if (text := _text(path)).strip():
        yield 1, {"text": text}


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    # Split at newlines only: other line separators of Unicode may stand inside an answer.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"this line is not JSON ({error})", where=f"{path}:{number}", fix="Correct or remove it"
            ) from None
        yield number, data


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows under the names of the first line. `choices` and `tags` are JSON lists, `answer` may be one."""
    reader = csv.DictReader(io.StringIO(_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    while True:
        try:
            row: dict[Any, Any] | None = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"is not CSV ({error})", where=f"{path}:{reader.line_num + 1}", fix="Put texts with commas into quotes"
            ) from None
        if row is None:
            return
        where = f"{path}:{reader.line_num}"
        if None in row or None in row.values():
            raise InputError("has another number of fields than the first line", where=where, fix="Check the quotes")
        yield reader.line_num, {key: _field(key, text, where) for key, text in row.items()}


def _field(key: str, text: str, where: str) -> Any:
    if key == "label":
        with suppress(ValueError):
            return text.lower() == "true" if text.lower() in ("true", "false") else float(text)
    if key in _LISTS and not text:
        return []
    if key in _LISTS or (key == "answer" and text.startswith("[")):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return found
        if key in _LISTS:
            raise InputError(f"`{key}` is not a JSON list", where=where, fix='Write it like ["one", "two"]')
    return text


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(
            "pyarrow, which reads Parquet, is not installed",
            where=path,
            fix="Install it: pip install 'genepool[parquet]'",
        ) from None
    number = nbytes = 0
    try:
        with parquet.ParquetFile(path) as file:
            size, rows = path.stat().st_size, file.metadata.num_rows
            if rows > max(_FEW_ROWS, size):
                raise InputError(f"claims {rows:,} rows in {size:,} bytes", where=path, fix=_AS_JSONL)
            batches = file.iter_batches(_PARQUET_ROWS)
            while True:
                # A value that stands in the file once may stand in every row.
                with bounded("a part of it", where=str(path), fix=_AS_JSONL):
                    if (batch := next(batches, None)) is None:
                        return
                    found = batch.to_pylist()
                nbytes += sum(map(_length, found))
                if nbytes > _PARQUET_BYTES + _PARQUET_FACTOR * size:
                    raise InputError(f"says {nbytes:,} characters in {size:,} bytes", where=path, fix=_AS_JSONL)
                for row in found:
                    number += 1
                    yield number, {key: value for key, value in row.items() if value is not None}
    except (ArrowException, OSError) as error:
        first = str(error).split("\n")[0].rstrip(".")
        raise InputError(f"cannot be read ({first})", where=path, fix="Name a Parquet file") from None


def _length(value: Any) -> int:
    """Characters in what a row says."""
    if isinstance(value, str | bytes):
        return len(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_length, inner))


def _text(path: Path) -> str:
    return read_text(path, fix="Save it as text in UTF-8")


def _check_answers(example: Example, settings: TaskSettings, where: str) -> None:
    if example.episode is not None and find_metric(settings.metric).needs != "episode":
        raise InputError(
            f"names an environment, and the metric {settings.metric} judges answers",
            where=where,
            fix="Write `metric: episode_return` and `returns: [LOW, HIGH]` in task.yaml",
        )
    if settings.classes and (other := next((one for one in example.answers if one not in settings.classes), None)):
        raise InputError(
            f"its answer {other[:40]!r} is not a class of the task",
            where=where,
            fix=nearest(other, settings.classes),
        )
    if (found := find_metric(settings.metric).wrong(example)) is not None:
        what, fix = found
        raise InputError(what, where=where, fix=fix)
