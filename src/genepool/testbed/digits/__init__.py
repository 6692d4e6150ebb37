"""The digits testbed: a small vision transformer and up to eight specialists on scikit-learn's digits, rearranged.

Everything here needs torch, and building needs scikit-learn too (`pip install "genepool[digits]"`), so nothing is
imported before it is used. `genepool.testbed.build(folder, bed="digits")` makes one; `ask` puts its tasks to any
`Weights` of its kind, one outcome per example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genepool.testbed.digits.asking import DigitsModel, ask

__all__ = ["DigitsModel", "ask"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from genepool.testbed.digits import asking

        return getattr(asking, name)
    raise AttributeError(f"module 'genepool.testbed.digits' has no attribute '{name}'")
