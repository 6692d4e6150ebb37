"""How a child is made of its parents: one operator per file, found by itself.

An operator computes in float32, tensor by tensor, with randomness of (seed, tensor name): what it makes does not depend
on threads, workers or the order of tensors.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from genepool.errors import InputError, nearest
from genepool.evolution.strategies.base import Birth

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.founders import Founders

    Parents = Sequence[Mapping[str, torch.Tensor]]
    Operator = Callable[[Founders, Parents, Birth], Iterator[tuple[str, torch.Tensor]]]

_registry: dict[str, Operator] = {}


def register(name: str) -> Callable[[Operator], Operator]:
    """Function decorator that puts an operator on the list."""

    def add(function: Operator) -> Operator:
        if name in _registry and _registry[name].__module__ != function.__module__:
            raise ValueError(f"two operators are called {name!r}")
        _registry[name] = function
        return function

    return add


@functools.cache
def operators() -> dict[str, Operator]:
    """Every operator by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def operator(name: str) -> Operator:
    """The operator called `name`."""
    known = operators()
    if name not in known:
        raise InputError(f"there is no operator '{name}'", fix=nearest(name, known))
    return known[name]
