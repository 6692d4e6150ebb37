"""The tasks of a testbed that a user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from genepool.errors import InputError, nearest

_Task = TypeVar("_Task")


def chosen(names: Sequence[str], known: Mapping[str, _Task], bed: str) -> tuple[_Task, ...]:
    """The tasks called `names`, in that order.

    Args:
        names: what the user named.
        known: the tasks of the testbed by name.
        bed: what the testbed is called.

    Raises:
        InputError: a name is unknown or given twice, or there is none.
    """
    if not names:
        raise InputError("no task is named", where="skills", fix=f"Known here: {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InputError(f"there is no {bed} task '{name}'", where="skills", fix=nearest(name, known))
    if len(set(names)) < len(names):
        raise InputError("a task is named twice", where="skills", fix="Name each task once")
    return tuple(known[name] for name in names)
