"""Lines that say which of two answers is better, or whether one is good, in the shapes that TRL reads.

    {"prompt", "chosen", "rejected"}      texts, or messages: then the last message of both sides is what differs
    {"chosen", "rejected"}                the same with the prompt in front of both sides
    {"prompt", "completion", "label"}     label true: an accepted answer; false: a rejected one; a number from 0 to 1:
                                          how good it is, which TRL has no shape for

`reading` asks this of every line; the examples of labelled lines are joined by their prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from genepool import progress
from genepool.checked import is_number
from genepool.errors import InputError
from genepool.tasks.example import Example

_SHAPE = 'Write {"prompt": "...", "chosen": "...", "rejected": "..."}'


def split_sides(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A line with `chosen` and `rejected` as a line with a prompt and its answer, and the rejected answers.

    Raises:
        InputError: a side is missing or of another kind than the other, or they differ before their last message.
    """
    also = next((key for key in ("answer", "completion", "messages", "label", "choices") if key in data), None)
    if also is not None:
        raise InputError(f"has both `chosen` and `{also}`", where=where, fix="Leave one of them out")
    rest = {key: value for key, value in data.items() if key not in ("chosen", "rejected")}
    chosen, rejected = data.get("chosen"), data.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if "prompt" in data:
            return {**rest, "answer": chosen}, (rejected,)
        shared = _shared(chosen, rejected)
        return {**rest, "prompt": chosen[:shared], "answer": chosen[shared:]}, (rejected[shared:],)
    if not _are_turns(chosen) or not _are_turns(rejected):
        raise InputError("`chosen` and `rejected` must be two texts, or two lists of messages", where=where, fix=_SHAPE)
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    if chosen[:-1] != rejected[:-1] or rejected[-1]["role"] != "assistant":
        raise InputError(
            "`chosen` and `rejected` must be alike up to the last message, which the assistant says",
            where=where,
            fix="Cut both off after the first answer that differs",
        )
    if "prompt" in data:
        return {**rest, "completion": chosen}, (rejected[-1]["content"],)
    return {**rest, "prompt": chosen[:-1], "completion": chosen[-1:]}, (rejected[-1]["content"],)


def label_of(data: Mapping[str, Any], where: str) -> bool | float:
    """Whether the completion of a labelled line is good, or how good it is.

    Raises:
        InputError: the label is neither true nor false nor a number from 0 to 1, or there is no completion.
    """
    label = data["label"]
    if not isinstance(label, bool) and not (is_number(label) and 0 <= label <= 1):
        raise InputError(
            "`label` must be true or false, or a number from 0 to 1", where=where, fix="Correct it, or leave it out"
        )
    if "completion" not in data:
        raise InputError("has a `label` and no `completion`", where=where, fix="Write what is labelled under it")
    return label if isinstance(label, bool) else float(label)


def joined(examples: Sequence[Example], labels: Sequence[bool | None], where: str) -> list[Example]:
    """Examples with those of one prompt joined that are labelled: accepted answers, and the rejected ones.

    Args:
        examples: one for each line.
        labels: what the line says of its answer; None where it says nothing.
        where: the file, for errors.

    Raises:
        InputError: no prompt has an accepted answer.
    """
    found: dict[object, Example] = {}
    for number, (example, good) in enumerate(zip(examples, labels, strict=True)):
        if good is None:
            found[number] = example
            continue
        key = (example.prompt, example.messages)
        known = found.get(key, replace(example, answers=(), rejected=()))
        side = tuple(dict.fromkeys((*(known.answers if good else known.rejected), example.answer)))
        found[key] = replace(known, answers=side) if good else replace(known, rejected=side)
    kept = [example for example in found.values() if example.answers]
    if not kept:
        raise InputError(
            "no completion has the label true", where=where, fix="Label at least one completion of a prompt true"
        )
    if left := len(found) - len(kept):
        progress.message(f"{where}: {left:,} prompts have no completion with the label true and are left out")
    return kept


def _shared(chosen: str, rejected: str) -> int:
    """Characters that are the prompt of both: what they share, without a space at its end, as TRL takes them apart."""
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    return shared - 1 if shared and chosen[shared - 1] == " " else shared


def _are_turns(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, Mapping) and isinstance(one.get("content"), str) and "role" in one for one in value)
    )
