"""The lines of a stream's files, examples and labels: written by anybody, so every value is checked where it enters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genepool.bounded import read_text
from genepool.checked import is_line, is_number, is_text, is_whole, kind_of, parsed_json
from genepool.errors import InputError, nearest

#: Severities of a stream whose order is gradual.
SEVERITIES = range(1, 6)

_KEYS = ("id", "prompt", "input", "answer", "domain", "severity", "known")
_LABEL_KEYS = ("id", "answer")
_FIX = 'Write lines like {"id": "1", "prompt": "...", "answer": "...", "domain": "noise"}'


@dataclass(frozen=True)
class StreamExample:
    """One example.

    Attributes:
        key: its id.
        prompt: what a model reads: a text, or the file of an image; None where there are numbers.
        numbers: values of an input, flat; empty where there is a prompt.
        answer: the right class; None where no label ever comes.
        domain: where it is from, such as the name of a corruption.
        severity: from 1 to 5; None where it says none.
        known: whether its class is one that the model can know.
        image: SHA-256 of the image that the prompt names, hex; empty where the stream's folder tells it.
        future: of a series, the flat values that follow the window; empty for other streams.
        end: of a series, the number of the window's last step; -1 for other streams.
    """

    key: str
    prompt: str | None
    numbers: tuple[float, ...]
    answer: str | None
    domain: str = ""
    severity: int | None = None
    known: bool = True
    image: str = ""
    future: tuple[float, ...] = ()
    end: int = -1


def lines_of(path: Path) -> Iterator[tuple[str, Any]]:
    """What the lines of a file hold, each with its place."""
    text = read_text(path, fix="Write one JSON object a line")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", parsed_json(line)
            except ValueError as error:
                what = "an input holds NaN or infinity" if str(error).startswith("holds ") else f"is not JSON ({error})"
                raise InputError(what, where=f"{path}:{number}", fix="Correct the line, or leave it out") from None


def examples_of(
    lines: Any, where: str, shape: tuple[int, ...] | None
) -> tuple[tuple[StreamExample, ...], tuple[int, ...]]:
    """The examples of some lines, and the shape that all of their inputs have."""
    found: list[StreamExample] = []
    seen: dict[str, str] = {}
    for place, row in lines:
        example, own = _example(row, place)
        if example.key in seen:
            what = f"id {example.key!r} is already at {seen[example.key]}"
            raise InputError(what, where=place, fix="Give each its own")
        seen[example.key] = place
        if found and (example.prompt is None) != (found[0].prompt is None):
            what = "has `prompt` where others have `input`, or the reverse"
            raise InputError(what, where=place, fix="Write all alike")
        if example.prompt is None:
            shape = own if shape is None else shape
            if own != shape:
                what = f"its input has shape {list(own)}, expected {list(shape)}"
                raise InputError(what, where=place, fix="Shape all inputs alike")
        found.append(example)
    if not found:
        raise InputError("holds no examples", where=where, fix=_FIX)
    return tuple(found), () if found[0].prompt is not None or shape is None else shape


def _example(row: Any, where: str) -> tuple[StreamExample, tuple[int, ...]]:
    if not isinstance(row, dict):
        raise InputError(f"got {kind_of(row)}, expected an object", where=where, fix=_FIX)
    for key in row:
        if key not in _KEYS:
            raise InputError(f"unknown key '{key:.40}'", where=where, fix=nearest(str(key), _KEYS))
    prompt, numbers = row.get("prompt"), row.get("input")
    shape: tuple[int, ...] = ()
    if (prompt is None) == (numbers is None):
        what = "has neither `prompt` nor `input`" if prompt is None else "has both `prompt` and `input`"
        raise InputError(what, where=where, fix=_FIX)
    if prompt is not None and not is_text(prompt):
        raise InputError(f"got {kind_of(prompt)} for `prompt`, expected text", where=where, fix=_FIX)
    flat: list[float] = []
    if numbers is not None:
        shape = _flattened(numbers, flat, where)
    severity = row.get("severity")
    right = {
        "id": (is_line(row.get("id"), 1000) and row["id"], "a line of text"),
        "answer": (row.get("answer") is None or is_line(row["answer"], 1000), "a line of text"),
        "domain": (is_line(row.get("domain", ""), 200), "a line of text"),
        "severity": (severity is None or is_whole(severity, 1, len(SEVERITIES)), "a whole number from 1 to 5"),
        "known": (isinstance(row.get("known", True), bool), "true or false"),
    }
    if (key := next((key for key, (good, _) in right.items() if not good), None)) is not None:
        raise InputError(f"got {row.get(key)!r:.60} for `{key}`, expected {right[key][1]}", where=where, fix=_FIX)
    example = StreamExample(
        row["id"], prompt, tuple(flat), row.get("answer"), row.get("domain", ""), row.get("severity"),
        row.get("known", True),
    )  # fmt: skip
    return example, shape


def _flattened(value: Any, flat: list[float], where: str, depth: int = 0) -> tuple[int, ...]:
    """Puts nested lists of numbers into one list; their shape."""
    if is_number(value):
        flat.append(float(value))
        return ()
    if not isinstance(value, list) or not value or depth > 4:
        raise InputError("its input is not lists of finite numbers", where=where, fix="Write numbers; no NaN")
    shapes = {_flattened(one, flat, where, depth + 1) for one in value}
    if len(shapes) > 1:
        raise InputError("the lists of its input have unequal lengths", where=where, fix="Make them alike")
    return (len(value), *shapes.pop())


def labelled(examples: tuple[StreamExample, ...], path: Path) -> tuple[StreamExample, ...]:
    """The examples with the answers of a file of labels."""
    labels: dict[str, str] = {}
    known = {one.key: one for one in examples}
    for place, row in lines_of(path):
        good = isinstance(row, dict) and set(row) == set(_LABEL_KEYS)
        if not good or not all(is_line(one, 1000) for one in row.values()):
            raise InputError("is not a label", where=place, fix='Write lines like {"id": "1", "answer": "cat"}')
        key = row["id"]
        if key not in known:
            raise InputError(
                f"a label for {key!r:.60}, an example that never came", where=place, fix="Add it to stream.jsonl"
            )
        if key in labels or known[key].answer is not None:
            raise InputError(f"a second label for {key!r:.60}", where=place, fix="Leave one of them out")
        labels[key] = row["answer"]
    return tuple(one if one.key not in labels else replace(one, answer=labels[one.key]) for one in examples)
