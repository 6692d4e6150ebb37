"""Requests that each name the skill that is to answer them: a JSONL file, and the skills that it names.

    {"prompt": "R:hello=", "skill": "lora/reverse"}     a PEFT adapter, a skill file or a fine-tune of the base
    {"prompt": "hello"}                                 the base alone

Paths are those of the command, else beside the file. `genepool generate --requests` reads it, and `requested_model`
answers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genepool.bounded import read_text
from genepool.checked import is_line, is_text, kind_of, parsed_json
from genepool.composition.skill_set import ComposedSkill, SkillSet, common_base, open_skill
from genepool.errors import InputError, nearest
from genepool.weights import BaseWithChange, ModelDifference, open_weights
from genepool.weights.quantised import refuse_quantised

_KEYS = ("prompt", "skill")


@dataclass(frozen=True)
class SkillRequest:
    """A prompt and who is to answer it.

    Attributes:
        prompt: the text.
        skill: what the user calls the skill; empty for the base alone.
        where: file and line, for errors.
    """

    prompt: str
    skill: str
    where: str


def read_requests(path: Path) -> list[SkillRequest]:
    """The requests of a JSONL file.

    Raises:
        InputError: it is no such file, or a line is wrong; the line is named.
    """
    found = []
    for number, line in enumerate(read_text(path, fix="Name a JSONL file").split("\n"), 1):
        if line.strip():
            found.append(_request(line, f"{path}:{number}"))
    if not found:
        raise InputError("holds no requests", where=path, fix='Write lines such as {"prompt": "...", "skill": "..."}')
    return found


def _request(line: str, where: str) -> SkillRequest:
    try:
        said = parsed_json(line)
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", where=where, fix="Correct the line") from None
    if not isinstance(said, dict):
        raise InputError(f"got {kind_of(said)}, expected an object", where=where, fix="Correct the line")
    for key in said:
        if key not in _KEYS:
            raise InputError(f"unknown key '{key}'", where=where, fix=nearest(str(key), _KEYS))
    prompt, skill = said.get("prompt"), said.get("skill", "")
    if not is_text(prompt):
        raise InputError(f"got {kind_of(prompt)}, expected a text", where=f"{where}:prompt", fix="Correct it")
    if skill is None:
        raise InputError(
            "got null, expected a name", where=f"{where}:skill", fix="Leave `skill` out for the base alone"
        )
    if not is_line(skill):
        raise InputError(f"got {kind_of(skill)}, expected a name", where=f"{where}:skill", fix="Name a skill")
    return SkillRequest(prompt, skill, where)


def skills_of_requests(base: str, requests: Sequence[SkillRequest], *, allow_pickle: bool = False) -> SkillSet:
    """Opens a base and the skills that requests name, each once, in the order in which they come.

    Args:
        base: a folder, a file or a hub model.
        requests: who wants which.
        allow_pickle: also open PyTorch's .bin and .pt files, tensors only.

    Raises:
        InputError: one cannot be opened, or belongs to another base; the first line that names it is told.
    """
    opened = open_weights(base, allow_pickle=allow_pickle)
    refuse_quantised(opened, base, "Name the unquantised model that the skills belong to")
    found: dict[str, ComposedSkill] = {}
    for request in requests:
        if not request.skill or request.skill in found:
            continue
        where = f"{request.where}:skill"
        try:
            skill = open_skill(request.skill, _place(request), opened, "changes", allow_pickle)
        except InputError as error:
            raise InputError(f"{request.skill}: {error.what}", where=where, fix=error.fix) from None
        change = skill.change
        if isinstance(change, ModelDifference) and isinstance(change.tuned, BaseWithChange):
            raise InputError(
                f"{request.skill} stands on another base than {base}, and a batch has one base",
                where=where,
                fix="Name the skill alone, or put its requests into a file of their own",
            )
        found[request.skill] = skill
    return SkillSet(common_base(opened, list(found.values())), base, tuple(found.values()))


def _place(request: SkillRequest) -> str:
    """Where a skill lies: as it is written, else beside the file of the request."""
    if os.path.exists(os.path.expanduser(request.skill)):
        return request.skill
    beside = Path(request.where.rpartition(":")[0]).parent / request.skill
    return str(beside) if os.path.exists(beside) else request.skill
