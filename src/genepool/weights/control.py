"""The control tokens that a model is asked with: a prefix that asks for good answers, a backspace that takes back.

A training that teaches them writes them down. A prefix stands between a prompt and the answer. A checkpoint and an
adapter have them in a file of their folder, a skill file in its header, so they go wherever the weights go:
`Weights.control`. Causal language models honour them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.checked import is_line
from genepool.errors import InputError
from genepool.weights.json_file import read_json

CONTROL_FILE = "control_tokens.json"
# A prefix is a few tokens; a training has two of them.
_LONGEST, _MOST = 200, 16


@dataclass(frozen=True)
class Control:
    """How a model is asked.

    Attributes:
        prefix: text between a prompt and the answer; empty for none.
        banned: texts that the model must not write.
        backspace: the token that takes the one before it back; empty for none.
    """

    prefix: str = ""
    banned: tuple[str, ...] = ()
    backspace: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As `read_control` takes it."""
        back = {"backspace": self.backspace} if self.backspace else {}
        return {"prefix": self.prefix, "banned": list(self.banned), **back}

    @property
    def words(self) -> str:
        """It in a few words, for messages."""
        return f"the control prefix {self.prefix!r}" if self.prefix else f"the backspace {self.backspace!r}"

    def text(self) -> str:
        """What its file says."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def marked(self, fingerprint: str) -> str:
        """SHA-256, hex, of a model of this fingerprint that is asked so: asked otherwise it is another model."""
        parts = ["control", fingerprint, self.prefix, *self.banned, *(["", self.backspace] if self.backspace else [])]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def read_control(data: object, where: str | Path) -> Control | None:
    """The control tokens that a file tells; None where it tells none.

    Raises:
        InputError: it tells something else.
    """
    if data is None or data == {}:
        return None
    told = data if isinstance(data, dict) else {}
    prefix, back, banned = told.get("prefix", ""), told.get("backspace", ""), told.get("banned", [])
    if (
        not (is_line(prefix, _LONGEST) and is_line(back, _LONGEST) and (prefix or back))
        or not (isinstance(banned, list) and len(banned) <= _MOST)
        or not all(is_line(one, _LONGEST) and one for one in banned)
    ):
        raise InputError(
            "does not say control tokens",
            where=where,
            fix='Write {"prefix": "...", "banned": ["...", "..."]} or {"backspace": "..."}, or remove it',
        )
    return Control(prefix, tuple(banned), back)


def control_of(folder: Path | None) -> Control | None:
    """The control tokens of a model or an adapter, by its folder.

    Raises:
        InputError: its file is damaged.
    """
    if folder is None or not (file := folder / CONTROL_FILE).is_file():
        return None
    return read_control(read_json(file), file)


def joined_control(first: Control | None, second: Control | None, name: str) -> Control | None:
    """The control tokens of a model that is made of two.

    Args:
        first, second: theirs.
        name: of whom the second is, for errors.

    Raises:
        InputError: they are asked with different ones.
    """
    if first is None or second is None or first == second:
        return second or first
    raise InputError(
        f"is asked with {second.words}, and what it is put together with has {first.words}",
        where=name,
        fix="Put models together that are asked alike",
    )
