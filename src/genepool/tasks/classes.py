"""The classes of a classifier of transformers, checked against its config: names, number, and what they mean.

Used by the kinds of `models` that classify.
"""

from __future__ import annotations

from typing import Any

from genepool.errors import InputError

_FIX = "Correct id2label and label2id in its config.json"


def class_labels(config: Any, where: str) -> tuple[str, ...]:
    """The names of a model's classes, in the order of its scores.

    Args:
        config: transformers' config of the model.
        where: the model, for errors.

    Raises:
        InputError: there are fewer than two, a number or name is missing or stands twice, or the classes do not
            exclude each other.
    """
    where = f"{where}:config.json"
    named = dict(config.id2label or {})
    if config.problem_type in ("regression", "multi_label_classification"):
        raise InputError(
            f"problem_type is {config.problem_type}, expected single_label_classification",
            where=where,
            fix="Name a model whose classes exclude each other",
        )
    if len(named) < 2:
        raise InputError(f"id2label names {len(named)} class, expected two or more", where=where, fix=_FIX)
    if sorted(named) != list(range(len(named))):
        raise InputError(
            f"id2label numbers its classes {sorted(named)[:5]}, expected 0 to {len(named) - 1}", where=where, fix=_FIX
        )
    labels = tuple(named[number] for number in range(len(named)))
    if not all(isinstance(label, str) and label for label in labels):
        raise InputError("id2label holds a name that is not text", where=where, fix=_FIX)
    if twice := next((label for at, label in enumerate(labels) if label in labels[:at]), None):
        raise InputError(f"id2label gives two classes the name {twice!r}", where=where, fix=_FIX)
    return labels
