"""HPT against a mix that does not look at what is solved, and the majority of a model that is mostly wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from benchmarks.claims.verdict import better, failing
from benchmarks.learning.arm import LONG_RATES, SAMPLES, Arm, rewarded
from benchmarks.learning.bed import PROMPTS, STEPS, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, target
from genepool.seeding import numpy_generator
from genepool.training.folder import JOURNAL_FILE
from genepool.training.journal import Journal
from genepool.training.samples import draw_samples
from genepool.training.trainers.rollouts import RolloutTrainer

_HPT = {**rewarded(), "objective": "hpt", "options": {"samples": SAMPLES}}


def _hpt(bed: LearningBed, rate: float) -> Learned:
    return bed.learn(bed.labelled, learning_rate=rate, **_HPT)


def _share(made: Learned) -> float:
    """The part of all prompts of a training by HPT that were learned from their right answer."""
    with Journal(made.out / JOURNAL_FILE) as journal:
        return journal.samples(SAMPLES).get("demonstrations", 0) / (STEPS * PROMPTS)


def _fixed_mix(bed: LearningBed, rate: float) -> Learned:
    """HPT's own steps, but lots are drawn for the prompts that are learned from their right answer."""
    share = _share(_hpt(bed, rate))
    asked = 0

    def lots(trainer: RolloutTrainer, samples: Sequence[Any]) -> list[bool]:
        nonlocal asked
        asked += 1
        prompts = len(samples) // trainer.drawing.samples
        drawn = numpy_generator(bed.seed, "fixed mix", asked).random(prompts)
        return [bool(one < share) for one in drawn]

    with patch.object(RolloutTrainer, "_are_taught", lots):
        made = _hpt(bed, rate)
    return made.saying(share=share, realised=_share(made))


def _majority_of_less(bed: LearningBed, rate: float) -> Learned:
    """genepool refuses this where the majority is mostly wrong; the refusal is switched off to see what it prevents."""
    found: list[float] = []

    def measured(trainer: RolloutTrainer) -> None:
        lessons = trainer.lessons.train[:128]
        drawn = draw_samples(trainer.model, lessons, SAMPLES, 1.0, seed=trainer.recipe.seed, step=-1)
        found.append(trainer.rewards.measured_majority(drawn, SAMPLES))

    with patch.object(RolloutTrainer, "before_first_step", measured):
        made = bed.learn(bed.labelled, base=bed.less.model, learning_rate=rate, **rewarded("majority"))
    return made.saying(**{f"maj@{SAMPLES} before": found[0]})


ARMS = (
    Arm("fixed mix", "HPT, but lots are drawn for the prompts that are learned from their right answer, as many as HPT "
        "chose", _fixed_mix, LONG_RATES),
    Arm("majority, less known", "GRPO on the majority, from the model that knows less", _majority_of_less, LONG_RATES),
)  # fmt: skip

CLAIMS = (
    LearningClaim(
        "hpt-mix", "HPT beats a fixed mix of as many right answers", "Lv et al. 2025 (HPT)",
        ("hpt", "fixed mix"), target("hpt", "fixed mix"),
        better("HPT minus the same with its share of right answers drawn by lot (target)"),
    ),
    LearningClaim(
        "majority-destroys-less", "The majority as a reward destroys a skill whose majority is mostly wrong", "ours",
        ("majority, less known", "less known"), target("majority, less known", "less known"),
        failing("the model that knows less after GRPO on the majority minus before (target)"),
        f"the refusal of majorities that are mostly wrong was switched off; maj@{SAMPLES} before is in the table",
    ),
)  # fmt: skip
