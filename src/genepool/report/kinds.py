"""Kinds of models, in the order and by the names that every page uses.

Uses nothing but the standard library; sections and figures use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["base", "parent", "merge", "random", "winner"]

#: Kinds of models in the order the page shows them, with the heading of each group.
KINDS: Mapping[Kind, str] = {
    "base": "Base",
    "parent": "Specialists",
    "merge": "Static merges",
    "random": "Random search",
    "winner": "Evolved",
}

#: What one model of a kind is called.
KIND_OF_ONE: Mapping[Kind, str] = {
    "base": "base",
    "parent": "specialist",
    "merge": "static merge",
    "random": "random search",
    "winner": "evolved",
}
