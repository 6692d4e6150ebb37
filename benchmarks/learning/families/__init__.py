"""The families of claims, one file each, found by being there: `ARMS` are measured, `CLAIMS` are asked of them.

The rule of a claim is written before its figure. A family may use the arms of another one by their names.
"""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.learning.arm import Arm
from benchmarks.learning.claim import LearningClaim

#: The first family has the models that others begin with or are compared with.
FIRST = "objectives"

_NAMES = sorted((one.name for one in pkgutil.iter_modules(__path__)), key=lambda name: (name != FIRST, name))
_FAMILIES = [importlib.import_module(f"{__name__}.{name}") for name in _NAMES]
ARMS: tuple[Arm, ...] = tuple(arm for family in _FAMILIES for arm in family.ARMS)
CLAIMS: tuple[LearningClaim, ...] = tuple(claim for family in _FAMILIES for claim in family.CLAIMS)
