"""How the change of one tensor is stored in a skill file, one file per kind; a kind is found by being here.

An encoding turns a change, `(rows, columns)` float32, into a few named tensors (its parts) and some settings, and gives
back any rows of it from those. Skill files of one form may mix kinds: norms are dense beside matrices of low rank.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from genepool.weights.encodings.encoding import EncodedChange, Encoding, Entry

__all__ = ["EncodedChange", "Encoding", "Entry", "encodings"]


@cache
def encodings() -> dict[str, Encoding]:
    """Every kind by its name."""
    found: dict[str, Encoding] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for value in vars(loaded).values():
            own = isinstance(value, type) and issubclass(value, Encoding) and value.__module__ == loaded.__name__
            if own and value is not Encoding:
                found[value.kind] = value()
    return found
