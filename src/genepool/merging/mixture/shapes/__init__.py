"""The architectures that a mixture can have: one file each, found by being there."""

from __future__ import annotations

from functools import cache

from genepool.folder_classes import classes_of
from genepool.merging.mixture.shapes.shape import MixtureShape


@cache
def shapes() -> dict[str, MixtureShape]:
    """All of them by name, in the order in which they are tried."""
    found = [one() for one in classes_of(__name__, MixtureShape)]
    return {one.name: one for one in sorted(found, key=lambda shape: shape.order)}


__all__ = ["MixtureShape", "shapes"]
