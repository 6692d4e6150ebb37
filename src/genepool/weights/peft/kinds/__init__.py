"""The kinds of adapters that PEFT makes, one file each beside this one; a kind is found by being here.

`kind_of` gives the one that an adapter_config.json names, or says why it cannot be read. `refused` lists those that
change no weight.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from genepool.errors import InputError
from genepool.folder_classes import classes_of
from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.kinds.refused import REFUSED, WAY_OUT

__all__ = ["REFUSED", "Kind", "kind_of", "kinds"]


@cache
def kinds() -> dict[str, Kind]:
    """Every kind that is read, by PEFT's name of it."""
    return dict(sorted((one.peft_type, one()) for one in classes_of(__name__, Kind) if one.peft_type))


def kind_of(name: object, path: Path) -> Kind:
    """The kind of an adapter.

    Args:
        name: `peft_type` of its adapter_config.json.
        path: that file.

    Raises:
        InputError: it changes no weight, or genepool does not know it.
    """
    where = f"{path}:peft_type"
    if isinstance(name, str) and name in REFUSED:
        raise InputError(f"{name} adapters cannot be merged: {REFUSED[name]}", where=where, fix=WAY_OUT)
    found = kinds().get(name) if isinstance(name, str) else None
    if found is None:
        raise InputError(
            f"genepool does not know adapters of type {name!r}",
            where=where,
            fix="Merge the adapter with PEFT (merge_and_unload) and name the merged checkpoint",
        )
    return found
