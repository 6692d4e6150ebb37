"""The kinds of testbed: one file each, found by being there; `genepool testbed build --bed` names the file.

A file has one function, `settings(*, regime, tiny, seed, skills)`, which checks what the user asked for and returns a
`Making`. `genepool.testbed.builder` does the rest. Importing a file must need neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from genepool.testbed.pieces import Pieces


class Making(Protocol):
    """What `build` needs of a kind of testbed: settings that can be hashed, and how to make the pieces."""

    def digest(self) -> str:
        """A hash of everything that decides what is made."""

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Fills the staging folder and returns the manifest; `out` is where the folder will be."""


class Settings(Protocol):
    """The function `settings` of a file."""

    def __call__(self, *, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> Making:
        """Checks what was asked for.

        Raises:
            InputError: an unknown skill, or a regime that this kind of testbed does not have.
        """


def beds() -> dict[str, Settings]:
    """Every kind of testbed by name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").settings for name in names}
