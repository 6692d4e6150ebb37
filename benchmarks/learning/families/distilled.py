"""Specialising a model on what a teacher predicts at each step of its own answers."""

from __future__ import annotations

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import trained
from benchmarks.learning.bed import LearningBed
from benchmarks.learning.claim import LearningClaim, forgotten, less, target
from benchmarks.learning.families.objectives import MANY


def _specialist(bed: LearningBed) -> str:
    return str(bed.bed.full["reverse"])


ARMS = (
    trained("specialise", "the specialist's five likeliest tokens at each step of the same samples",
            lambda bed: bed.samples_of(_specialist(bed), MANY), teacher=_specialist, objective="specialise"),
)  # fmt: skip

_FU = "Fu et al. 2023 (specialising)"

CLAIMS = (
    LearningClaim(
        "specialise", "Learning what a teacher predicts at each step beats learning its samples", _FU,
        ("specialise", "sft on samples"), target("specialise", "sft on samples"),
        better("specialising minus supervised training on the same samples of the teacher (target)"),
    ),
    LearningClaim(
        "specialise-forgets", "Specialising costs the general ability", _FU,
        ("specialise", "base"), forgotten("specialise", "base"),
        less("the specialised model minus the base (general task)"),
    ),
)  # fmt: skip
