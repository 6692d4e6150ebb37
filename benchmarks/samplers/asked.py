"""All arms and claims of samplers: those of every file `of_*.py` beside this one; rules stand before figures."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from benchmarks.composition.cells import Cells
from benchmarks.learning.arm import Arm
from benchmarks.learning.claim import LearningClaim

_FILE = Path(__file__).parent / "cells.jsonl"
_NAMES = sorted(one.name for one in pkgutil.iter_modules([str(Path(__file__).parent)]) if one.name.startswith("of_"))
_PARTS = [importlib.import_module(f"benchmarks.samplers.{name}") for name in _NAMES]
ARMS: tuple[Arm, ...] = tuple(arm for part in _PARTS for arm in part.ARMS)
CLAIMS: tuple[LearningClaim, ...] = tuple(claim for part in _PARTS for claim in part.CLAIMS)


def known_cells() -> Cells:
    """What was measured until now."""
    return Cells(_FILE)
