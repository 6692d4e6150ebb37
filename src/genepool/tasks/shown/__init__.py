"""Which solved examples are shown before a question: one way a file beside this one, found by being there.

A task names a way in its setting `show`. Nothing is trained and no model is asked: what is shown depends on the task
and its seed alone. Knows examples, and neither models nor tasks.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from genepool.errors import InputError, nearest
from genepool.tasks.example import Example

if TYPE_CHECKING:
    import numpy as np


class ShownChoice(ABC):
    """One way to choose what is shown.

    Class attributes:
        name: what `show` calls it; its file's name.
        source: where it is from.
        when: one sentence on when to use it.
        tagged: whether it reads the tags of examples, which then decide an outcome.

    Args:
        pool: the examples of the training split.
        name: of the task, for errors.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    tagged: ClassVar[bool] = False

    def __init__(self, pool: Sequence[Example], name: str) -> None:
        self.pool, self.task = tuple(pool), name

    @abstractmethod
    def chosen(self, example: Example, count: int, drawn: np.random.Generator) -> list[Example]:
        """The examples shown before a question, in the order in which they are shown.

        Args:
            example: the question; it is never shown itself.
            count: how many, at least 1; there are as many others.
            drawn: draws for this question and the task's seed.

        Raises:
            InputError: the pool has none that this way needs.
        """

    def others(self, example: Example) -> list[Example]:
        """The pool without the question."""
        return [other for other in self.pool if other.key != example.key]


_Kind = TypeVar("_Kind", bound=type[ShownChoice])
_registry: dict[str, type[ShownChoice]] = {}


def shown_choice(kind: _Kind) -> _Kind:
    """Puts a way on the list; used as a decorator."""
    _registry[kind.name] = kind
    return kind


@functools.cache
def shown_choices() -> dict[str, type[ShownChoice]]:
    """Every way by name, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def find_shown_choice(name: str) -> type[ShownChoice]:
    """The way of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = shown_choices()
    if name not in known:
        raise InputError(f"unknown way to show examples '{name}'", fix=nearest(name, known))
    return known[name]


def refuse_untagged(pool: Sequence[Example], task: str, way: str) -> None:
    """Refuses a pool without tags, for ways that choose by them.

    Args:
        pool: the examples of the training split.
        task: whose they are.
        way: its name.

    Raises:
        InputError: no example has a tag.
    """
    if not any(example.tags for example in pool):
        raise InputError(
            f"`show: {way}` chooses by tags, and no training example has any",
            where=task,
            fix='Write {"tags": ["SKILL"]} into the training examples, or `show: alike`',
        )
