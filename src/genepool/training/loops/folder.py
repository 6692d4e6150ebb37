"""The folder of a loop: its files, what they say, and how they are read back. Loads no model.

DIR/loop.yaml              the loop file, with paths that can be found from anywhere
DIR/record.json            everything that decides the bits of the result: what a resumed loop is held against
DIR/start/                 what a fork began with
DIR/stages/RRRR-NN-NAME/   the stage NN of the round RRRR: its lines (NAME.jsonl), a training (run/), labels.txt, and
                           stage.json, written last: the stage is finished
DIR/skill.safetensors      the result, relative to the base
DIR/loop.json              what was gained and forgotten, and what it cost; written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genepool import staging
from genepool.checked import differences, is_digest, is_number, is_text, is_whole, parsed_json
from genepool.errors import InputError
from genepool.training.folder import RESULTS, read_result
from genepool.training.loops.recipe import Loop

LOOP_FILE, RECORD_FILE, RESULT_FILE = "loop.yaml", "record.json", "loop.json"
STAGES, START, MARK, LABELS, SKILL = "stages", "start", "stage.json", "labels.txt", "skill.safetensors"
_LABEL = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class StageMark:
    """What a finished stage left.

    Attributes:
        folder: its folder.
        round, number, name: which stage it is.
        told: counts and means, as plain data.
        tokens, steps: generated, and taken by the optimiser.
        labels: known answers that were looked at.
        result: what was trained, relative to the folder; empty where nothing was.
        fresh: that was trained from the base.
        lines: SHA-256, hex, of each file of lines, by their name.
    """

    folder: Path
    round: int
    number: int
    name: str
    told: Mapping[str, Any]
    tokens: int
    steps: int
    labels: frozenset[str]
    result: str
    fresh: bool
    lines: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As plain data; the labels are only counted."""
        return {
            "schema": 1,
            "round": self.round,
            "number": self.number,
            "stage": self.name,
            "told": dict(self.told),
            "tokens": self.tokens,
            "steps": self.steps,
            "labels": len(self.labels),
            "result": self.result,
            "fresh": self.fresh,
            "lines": dict(self.lines),
        }

    def write(self) -> None:
        """Says that the stage is finished."""
        if self.labels:
            staging.write_text(self.folder / LABELS, "\n".join(sorted(self.labels)) + "\n")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        staging.write_text(self.folder / MARK, text)


def stage_folder(out: Path, round_: int, number: int, name: str) -> Path:
    """Where a stage works."""
    return out / STAGES / f"{round_:04d}-{number:02d}-{name}"


def read_mark(folder: Path) -> StageMark | None:
    """What a finished stage left; None where it is not finished.

    Raises:
        InputError: it is damaged.
    """
    path = folder / MARK
    if not path.is_file():
        return None
    fix = f"Remove {folder}: the stage and those after it run again"
    try:
        told = parsed_json(path.read_text(encoding="utf-8"))
        counts = [told[key] for key in ("round", "number", "tokens", "steps", "labels")]
        fits = all(is_whole(one, 0) for one in counts) and all(map(is_digest, told["lines"].values()))
        inside = told["result"] == "" or told["result"] in {f"run/{one}" for one in RESULTS}
        kinds = is_text(told["stage"]) and isinstance(told["fresh"], bool) and isinstance(told["told"], dict)
        if not (fits and inside and kinds):
            raise ValueError
        labels = (folder / LABELS).read_text(encoding="utf-8").split() if told["labels"] else []
        if len(labels) != told["labels"] or not all(map(_LABEL.fullmatch, labels)):
            raise ValueError
        names = ("round", "number", "told", "tokens", "steps", "result", "fresh", "lines")
        mark = StageMark(folder, name=told["stage"], labels=frozenset(labels), **{name: told[name] for name in names})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise InputError("is damaged", where=path, fix=fix) from None
    if mark.result and not (folder / mark.result).exists():
        raise InputError("what was trained is missing", where=folder / mark.result, fix=fix)
    return mark


def loop_text(loop: Loop) -> str:
    """The loop as a file says it, with paths that can be found from anywhere."""
    told = loop.resolved().model_dump(mode="json", exclude_defaults=True)
    return str(yaml.safe_dump({"loop": 1, **told}, sort_keys=False, allow_unicode=True))


def read_record(out: Path) -> dict[str, Any] | None:
    """What is on record of a loop; None where no loop is.

    Raises:
        InputError: it is damaged.
    """
    path = out / RECORD_FILE
    if not path.is_file():
        return None
    try:
        told = parsed_json(path.read_text(encoding="utf-8"))
        settings: dict[str, Any] = dict(told["settings"])
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError("is damaged", where=path, fix="Begin again with --overwrite") from None
    return settings


def check_same_loop(known: Mapping[str, Any], settings: Mapping[str, Any], where: Path) -> None:
    """Refuses settings that are not those on record.

    Raises:
        InputError: naming every key that differs.
    """
    if found := differences(dict(known), json.loads(json.dumps(settings))):
        raise InputError(
            "the loop changed since it began: " + "; ".join(found),
            where=where,
            fix="Undo the change to resume, start another --out with --fork and this folder, or pass --overwrite",
        )


def trained_parts(folder: Path) -> list[Path]:
    """What a loop or a training in a folder has learned so far, in the order in which it goes onto the base.

    Raises:
        InputError: neither is there, or it has learned nothing yet.
    """
    if (folder / RECORD_FILE).is_file():
        parts = sorted((folder / START).iterdir()) if (folder / START).is_dir() else []
        places = sorted((folder / STAGES).iterdir()) if (folder / STAGES).is_dir() else []
        for mark in filter(None, map(read_mark, places)):
            if mark.result:
                parts = [*([] if mark.fresh else parts), mark.folder / mark.result]
    else:
        told = read_result(folder)
        parts = [] if told is None else [folder / told["result"]]
    if not parts:
        raise InputError(
            "holds neither a finished training nor a loop that has trained",
            where=folder,
            fix="Name the --out of a `genepool train`",
        )
    return parts


def clear_loop(out: Path) -> None:
    """Empties the folder, or removes the link that stands for it; what says that a loop is here goes last."""
    staging.empty(out, {RESULT_FILE: -1, RECORD_FILE: 1})


def read_loop_result(out: Path) -> dict[str, Any] | None:
    """What `loop.json` of a finished loop says; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    path = out / RESULT_FILE
    if not path.is_file():
        return None
    fix = "Remove it and run the same command: it is written again"
    try:
        told = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", where=path, fix=fix) from None
    if not isinstance(told, dict) or told.get("schema") != 1:
        raise InputError(
            "is not the result of a loop that this version reads", where=path, fix="Install the genepool that wrote it"
        )
    if wrong := next((key for key, fits in _KEYS.items() if not fits(told.get(key))), None):
        raise InputError("is damaged", where=f"{path}:{wrong}", fix=fix)
    if not (out / SKILL).is_file():
        raise InputError("the result is missing", where=out / SKILL, fix=f"Remove {path} and run the same command")
    return told


def _are_task_rows(value: object) -> bool:
    """Whether it is what `loop.json` says of some tasks."""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        return False
    return all(
        is_text(row.get("task"))
        and all(is_whole(row.get(key), 0) for key in ("n", "gained", "lost"))
        and isinstance(row.get("difference"), dict)
        and all(map(is_number, (row.get("before"), row.get("after"), row.get("p"))))
        and all(map(is_number, map(row["difference"].get, ("mean", "lo", "hi"))))
        for row in value
    )


_KEYS: dict[str, Callable[[Any], bool]] = {
    "result": lambda value: value == SKILL,
    "base": lambda value: isinstance(value, dict) and is_text(value.get("path")),
    "fingerprint": is_digest,
    "asked": is_digest,
    **dict.fromkeys(("rounds", "steps", "tokens_generated", "labels"), lambda value: is_whole(value, 0)),
    "stages": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
    "target": _are_task_rows,
    "others": _are_task_rows,
}
