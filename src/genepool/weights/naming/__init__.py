"""Names of tensors: one model's files, and its class in memory, call and lay out the same tensors differently.

`in_layout_of` gives a model in the layout of another, `in_memory_layout` in that of transformers' class, `named_as` a
base in the layout a change was made in; `put_on` brings such a change back, `change_in_memory_layout` takes one there.
All of them are lazy.
"""

from genepool.weights.naming.layouts import (
    change_in_memory_layout,
    in_layout_of,
    in_memory_layout,
    named_as,
    put_on,
    renaming_of,
)
from genepool.weights.naming.renamed import Renamed, RenamedChange, Renaming

__all__ = [
    "Renamed",
    "RenamedChange",
    "Renaming",
    "change_in_memory_layout",
    "in_layout_of",
    "in_memory_layout",
    "named_as",
    "put_on",
    "renaming_of",
]
