"""A skill as a library's catalogue has it, and how it comes out of the columns of a row.

A catalogue may have been written by somebody else: every value of a row is checked before it becomes a `LibraryEntry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genepool.checked import is_digest, is_line, is_number, is_text, is_whole, kind_of, numbers, parsed_json
from genepool.weights.skill_file import FORMS

if TYPE_CHECKING:
    from genepool.skills.sketch import Array

# Bytes, and tensors: 4 PiB, more than any file has.
_MOST = 2**52
COLUMNS = (
    "digest", "name", "form", "base_fingerprint", "base_name", "bytes", "tensors", "added", "description", "licence",
    "lineage", "training", "scores", "tags", "error",
)  # fmt: skip
JSON_COLUMNS = ("lineage", "training", "scores", "tags")


@dataclass(frozen=True)
class LibraryEntry:
    """A skill in a library, as the catalogue has it.

    Attributes:
        digest: SHA-256 of its file.
        name: what it is called here; nothing else is called that.
        form, base_fingerprint, base_name, error: as in the file's header.
        bytes, tensors: of the file.
        added: when, in UTC ("2026-01-31T12:00:00+00:00").
        description, licence, lineage, training, scores: as in the header, or as given when it was added.
        tags: words to find it by.
    """

    digest: str
    name: str
    form: str
    base_fingerprint: str
    base_name: str
    bytes: int
    tensors: int
    added: str
    description: str = ""
    licence: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    error: float | None = None

    @property
    def short(self) -> str:
        """The beginning of the digest: enough to name it."""
        return self.digest[:12]

    @property
    def parents(self) -> tuple[str, ...]:
        """Digests of the skills it was made of."""
        found = self.lineage.get("parents")
        return tuple(dict.fromkeys(filter(is_digest, found))) if isinstance(found, list) else ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is empty."""
        found = {**vars(self), "tags": list(self.tags)}
        return {key: value for key, value in found.items() if value not in ("", {}, [], None)}


def entry_of(row: Sequence[Any]) -> LibraryEntry:
    """A row as the skill it is of.

    Raises:
        ValueError: a value is not what belongs there.
    """
    found = dict(zip(COLUMNS, row, strict=True))
    if not is_digest(found["digest"]):
        raise ValueError(f"got the digest {found['digest']!r:.80}")
    if not is_line(found["name"]) or not found["name"].strip():
        raise ValueError(f"got the name {found['name']!r:.80}")
    for column in ("form", "base_fingerprint", "base_name", "added", "description", "licence"):
        if not is_text(found[column]):
            raise ValueError(f"got {kind_of(found[column])}, expected its {column}")
    if found["form"] not in FORMS:
        raise ValueError(f"got the form {found['form']!r:.80}")
    for column in ("bytes", "tensors"):
        if not is_whole(found[column], 0, _MOST):
            raise ValueError(f"got {found[column]!r:.80} for {column}")
    if found["error"] is not None and not is_number(found["error"], 0):
        raise ValueError(f"got the error {found['error']!r:.80}")
    for column in JSON_COLUMNS:
        try:
            found[column] = parsed_json(found[column])
        except ValueError as error:
            raise ValueError(f"its {column}: {error}") from None
    for column in ("lineage", "training"):
        if not isinstance(found[column], dict):
            raise ValueError(f"got {kind_of(found[column])}, expected its {column}")
    try:
        numbers(found["scores"], 0, 1)
    except ValueError as error:
        raise ValueError(f"its scores: {error}") from None
    if not isinstance(found["tags"], list) or not all(map(is_line, found["tags"])):
        raise ValueError("its tags are not a list of words")
    return LibraryEntry(**{**found, "tags": tuple(found["tags"])})


def called(row: Sequence[Any]) -> str:
    """What a damaged row's skill is called, as far as it says."""
    named = [value for value in (row[1:2] if row else ()) if is_line(value, 200)]
    return repr(named[0]) if named else "a skill without a name"


def floats(data: object, width: int) -> Array | None:
    """Finite float32 numbers out of a column, a multiple of `width`; None when it holds something else."""
    import numpy as np

    if not isinstance(data, bytes) or len(data) % (4 * width):
        return None
    found = np.frombuffer(data, "<f4")
    return found if bool(np.isfinite(found).all()) else None
