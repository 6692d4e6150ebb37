"""Stores a `Change` as a skill file whose lineage says what made it: where extracting, converting and training end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from genepool.weights.change import Change
from genepool.weights.encodings import Encoding, Entry
from genepool.weights.skill_forms import Form
from genepool.weights.skill_writer import AS_STORED, Choice, Choose, WrittenChange, write_skill


def store(
    change: Change,
    out: str | Path,
    form: Form | Choose | None,
    operation: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    form_name: str | None = None,
    words: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> WrittenChange:
    """Writes a change as a skill file whose lineage says what made it.

    Args:
        change: what to write.
        out: the file, ending in .safetensors.
        form: how; in the form it is stored in already when None.
        form_name: what the form is called, where `form` is none of the forms that have a name.
        operation, arguments: what goes into the lineage, as on the command line.
        words: name, description and licence, where they are to be other than those of `change`.
        overwrite, threads: as for `write_skill`.

    Returns:
        The file and what storing it lost.
    """
    header = replace(change.header, **dict(words or {}))
    header = header.made_by(operation, arguments=dict(arguments or {}), **change.identity())
    if form_name is None:
        form_name = form.name if isinstance(form, Form) else stored_form(change)
    return write_skill(change, out, form_name, form or _as_it_is, header, overwrite=overwrite, threads=threads)


def stored_form(change: Change) -> str:
    """The form that most of a change is stored in already."""
    kinds = [stored[0].form for name in change.names() if (stored := change.stored(name)) is not None]
    entries = {kind: kinds.count(kind) for kind in kinds if kind != "dense"}
    return max(entries, key=lambda kind: entries[kind]) if entries else "dense"


def _as_it_is(name: str, shape: tuple[int, ...], stored: tuple[Encoding, Entry] | None) -> Choice:  # noqa: ARG001
    return AS_STORED if stored is not None else Choice("dense", {"dtype": "F32"})
