"""The architectures that a mixture can have: one file each, found by being there."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from genepool.merging.mixture.shapes.shape import MixtureShape


@cache
def shapes() -> dict[str, MixtureShape]:
    """All of them by name, in the order in which they are tried."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        held = importlib.import_module(f"{__name__}.{module.name}")
        found += [
            one() for one in vars(held).values()
            if isinstance(one, type) and issubclass(one, MixtureShape) and one.__module__ == held.__name__
            and one is not MixtureShape
        ]  # fmt: skip
    return {one.name: one for one in sorted(found, key=lambda shape: shape.order)}


__all__ = ["MixtureShape", "shapes"]
