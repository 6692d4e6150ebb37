"""Adapt-inf: four skills arrive one after the other, and a quarter of all examples until then is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored
from benchmarks.samplers.bed import FOUR, RATE, learned

#: Examples of each pool, the part of all of them that is trained on, and steps after each arrival.
_POOL, _PART, _STEPS = 128, 0.25, 40


def _pool(bed: LearningBed, skill: str) -> Path:
    if f"pool {skill}" not in bed.shelf:
        lines = [{"prompt": one.prompt, "answer": one.answer} for one in bed.tasks[skill].examples("train")[:_POOL]]
        bed.shelf[f"pool {skill}"] = bed.written(f"pool-{skill}", lines, len(lines), task=skill).folder
    return Path(bed.shelf[f"pool {skill}"])


def _arriving(options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    made = Learned("")
    for count in range(1, len(FOUR) + 1):
        folders = [_pool(bed, skill) for skill in FOUR[:count]]
        more = {"base": made.model} if made.model else {}
        made = learned(bed, folders, rate, "adapt_inf", {"part": _PART, **options}, steps=_STEPS, **more).after(made)
    return made


ARMS = (
    Arm("pools, adapt_inf", "four pools that arrive, a quarter of all chosen by Adapt-inf", partial(_arriving, {}),
        (RATE,)),
    Arm("pools, any", "as many of them, drawn: shuffled marks", partial(_arriving, {"permuted": True}), (RATE,)),
)  # fmt: skip

_SOURCE = "Maharana et al. 2025 (Adapt-inf)"

CLAIMS = (
    LearningClaim(
        "adapt-inf", "Of pools that arrive, Adapt-inf forgets less of the earlier ones than a random part", _SOURCE,
        ("pools, adapt_inf", "pools, any"), scored("pools, adapt_inf", "pools, any", FOUR[:-1]),
        better("Adapt-inf minus a random part (the three skills that came first)"),
        same_examples=True,
    ),
)  # fmt: skip
