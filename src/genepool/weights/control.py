"""The control prefix that a model is asked with, where its training told good answers from bad ones by a prefix.

It stands between a prompt and the answer. A checkpoint and an adapter have it in a file of their folder, a skill file
in its header, so it goes wherever the weights go: `Weights.control`. Causal language models honour it.
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

CONTROL_FILE = "control_prefix.json"
# A prefix is a few tokens; a training has two of them.
_LONGEST, _MOST = 200, 16


@dataclass(frozen=True)
class Control:
    """How a model is asked.

    Attributes:
        prefix: text between a prompt and the answer.
        banned: texts that the model must not write.
    """

    prefix: str
    banned: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As `read_control` takes it."""
        return {"prefix": self.prefix, "banned": list(self.banned)}

    def text(self) -> str:
        """What its file says."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def marked(self, fingerprint: str) -> str:
        """SHA-256, hex, of a model of this fingerprint that is asked so: asked otherwise it is another model."""
        parts = ["control", fingerprint, self.prefix, *self.banned]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def read_control(data: object, where: str | Path) -> Control | None:
    """The prefix that a file tells; None where it tells none.

    Raises:
        InputError: it tells something else.
    """
    if data is None or data == {}:
        return None
    prefix = data.get("prefix") if isinstance(data, dict) else None
    banned = data.get("banned", []) if isinstance(data, dict) else None
    if (
        not (is_line(prefix, _LONGEST) and prefix)
        or not (isinstance(banned, list) and len(banned) <= _MOST)
        or not all(is_line(one, _LONGEST) and one for one in banned)
    ):
        raise InputError(
            "does not say a control prefix",
            where=where,
            fix='Write {"prefix": "...", "banned": ["...", "..."]}, or remove it',
        )
    return Control(prefix, tuple(banned))


def control_of(folder: Path | None) -> Control | None:
    """The prefix of a model or an adapter, by its folder.

    Raises:
        InputError: its file is damaged.
    """
    if folder is None or not (file := folder / CONTROL_FILE).is_file():
        return None
    return read_control(read_json(file), file)


def joined_control(first: Control | None, second: Control | None, name: str) -> Control | None:
    """The prefix of a model that is made of two.

    Args:
        first, second: theirs.
        name: of whom the second is, for errors.

    Raises:
        InputError: they are asked with different ones.
    """
    if first is None or second is None or first == second:
        return second or first
    raise InputError(
        f"is asked with the control prefix {second.prefix!r}, and what it is put together with with {first.prefix!r}",
        where=name,
        fix="Put models together that are asked alike",
    )
