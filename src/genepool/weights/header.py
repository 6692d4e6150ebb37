"""What is known about a change beside its numbers: its base, where it comes from and how good it is.

The header of a skill file holds it as strings; `skill_file` says which. Every `Change` has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genepool.checked import is_line, is_number, numbers
from genepool.errors import InputError

VERSION = 1
SKILL_KEY, FORM_KEY, BASE_KEY, BASE_NAME_KEY, TENSORS_KEY, HEAD_KEY, CONTROL_KEY = (
    "genepool_skill", "form", "base_fingerprint", "base_name", "tensors", "head", "control",
)  # fmt: skip
_TEXTS, _OBJECTS = ("name", "description", "licence"), ("lineage", "training", "scores", HEAD_KEY, CONTROL_KEY)
# What a header may say in all; the table of tensors comes on top.
_MOST_BYTES = 1 << 20
_AGAIN = "Make or fetch the skill again"


@dataclass(frozen=True)
class Header:
    """What is known about a change.

    Attributes:
        base_fingerprint, base_name: the model it is relative to.
        name, description, licence: in words; "" when nothing was said. A licence is best an SPDX identifier.
        lineage: {"operation", "arguments", "parents", "models", "genepool"}: what made it of what. Parents are skills,
            by the SHA-256 of their files; models are [{"name", "fingerprint"}].
        training: what is known of how the task was learned (data fingerprint, steps, learning rate), free.
        scores: task -> mean score of base + skill.
        head: {"architecture", "classes"}: the head that the change is of where its base has none (`class_head`); empty.
        control: the control tokens that a base with it is asked with (`control`); empty.
        error: share of the change's size (Frobenius norm) lost in storing it; None when nothing was.
    """

    base_fingerprint: str = ""
    base_name: str = ""
    name: str = ""
    description: str = ""
    licence: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    error: float | None = None

    @classmethod
    def read(cls, metadata: Mapping[str, str], where: Path) -> Header:
        """Reads it from the strings of a skill file's header.

        Args:
            metadata: the strings.
            where: the file, for errors.

        Raises:
            InputError: one of its fields is not what it should be.
        """
        found: dict[str, Any] = {key: metadata.get(key, "") for key in _TEXTS}
        if not is_line(found["name"]):
            raise InputError("its name holds control characters", where=where, fix=_AGAIN)
        for key in _OBJECTS:
            try:
                found[key] = json.loads(metadata.get(key, "{}"))
            except (ValueError, RecursionError):
                found[key] = None
            if not isinstance(found[key], dict):
                raise InputError(f"its {key} is not a JSON object", where=where, fix=_AGAIN)
        try:
            numbers(found["scores"], 0, 1)
        except ValueError as wrong:
            raise InputError(f"its scores hold {wrong}", where=where, fix=_AGAIN) from None
        return cls(metadata.get(BASE_KEY, ""), metadata.get(BASE_NAME_KEY, ""), **found, error=_error(metadata))

    def made_by(self, operation: str, **lineage: Any) -> Header:
        """The header of what an operation makes: the words and the base stay, scores and errors are measured anew.

        Args:
            operation: its name, as on the command line.
            lineage: "arguments", "parents", "models".
        """
        made = {"operation": operation, **{k: v for k, v in lineage.items() if v}, "genepool": version("genepool")}
        return replace(self, lineage=made, scores={}, error=None)

    def metadata(self, form: str, tensors: Mapping[str, Any]) -> dict[str, str]:
        """The strings of the file's header."""
        found = {
            SKILL_KEY: str(VERSION),
            FORM_KEY: form,
            BASE_KEY: self.base_fingerprint,
            BASE_NAME_KEY: self.base_name,
            **{key: str(getattr(self, key)) for key in _TEXTS if getattr(self, key)},
            **{key: metadata_text(getattr(self, key)) for key in _OBJECTS if getattr(self, key)},
        }
        if self.error is not None:
            found["error"] = f"{self.error:.3g}"
        size = sum(len(json.dumps(text, ensure_ascii=False).encode()) for text in found.values())
        if size > _MOST_BYTES:
            raise InputError(
                f"the description of the skill takes {size} bytes, expected at most a megabyte", fix="Shorten it"
            )
        return {**found, TENSORS_KEY: metadata_text(tensors)}


def _error(metadata: Mapping[str, str]) -> float | None:
    try:
        error = float(metadata["error"]) if "error" in metadata else None
    except ValueError:
        return None
    return error if is_number(error, 0) else None


def metadata_text(settings: Mapping[str, Any]) -> str:
    """JSON as the header of a file holds it."""
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
