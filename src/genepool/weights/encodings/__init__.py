"""How the change of one tensor is stored in a skill file, one file per kind; a kind is found by being here.

An encoding turns a change, `(rows, columns)` float32, into a few named tensors (its parts) and some settings, and gives
back any rows of it from those. Skill files of one form may mix kinds: norms are dense beside matrices of low rank.
"""

from __future__ import annotations

from functools import cache

from genepool.folder_classes import classes_of
from genepool.weights.encodings.encoding import EncodedChange, Encoding, Entry

__all__ = ["EncodedChange", "Encoding", "Entry", "encodings"]


@cache
def encodings() -> dict[str, Encoding]:
    """Every kind by its name."""
    return {one.kind: one() for one in classes_of(__name__, Encoding)}
