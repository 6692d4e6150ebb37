"""Running means of weights, in trainings of few prompts a step, whose last steps are noisy."""

from __future__ import annotations

from typing import Any

from benchmarks.claims.verdict import MARGIN, better, better_at_no_cost, kept
from benchmarks.learning.arm import Arm, trained
from benchmarks.learning.bed import PROMPTS
from benchmarks.learning.claim import LearningClaim, keeping, target

#: Of the mean: about the last twenty of the sixty steps count; and of the one that begins with what the base knew.
_DECAY, _MOMENTUM = 0.95, 0.98


def _few(name: str, words: str, **settings: Any) -> Arm:
    return trained(name, words, lambda bed: bed.labelled, batch=PROMPTS, schedule="constant", **settings)


ARMS = (
    _few("sft, constant", "supervised, few prompts a step, at a constant rate"),
    _few("ema", f"the same, the mean of its weights with a decay of {_DECAY} being the result",
         average={"decay": _DECAY}),
    _few("momentum weights", f"the same with a decay of {_MOMENTUM} from the first step on, so that the base counts",
         average={"decay": _MOMENTUM, "rises": False}),
)  # fmt: skip

_EMA = "Polyak and Juditsky 1992; Morales-Brotons et al. 2024"

CLAIMS = (
    LearningClaim(
        "ema", "A running mean of the weights is better than the last weights", _EMA,
        ("ema", "sft, constant"), target("ema", "sft, constant"),
        better("the mean of the weights minus the last weights, both at a constant rate (target)"),
    ),
    LearningClaim(
        "ema-decay", "A running mean takes the place of a falling rate", _EMA,
        ("ema", "sft, short"), target("ema", "sft, short"),
        kept("the mean of the weights at a constant rate minus the last weights at a falling one (target)", MARGIN),
    ),
    LearningClaim(
        "ema-keeps", "A running mean forgets less at equal skill", "ours",
        ("ema", "sft, constant", "base"), keeping("ema", "sft, constant"),
        better_at_no_cost("the mean of the weights minus the last weights (general task)", "the same for the target"),
    ),
    LearningClaim(
        "momentum-keeps", "Momentum interpolation of weights forgets less at equal skill", "Stojanovski et al. 2022",
        ("momentum weights", "sft, constant", "base"), keeping("momentum weights", "sft, constant"),
        better_at_no_cost("momentum weights minus the last weights (general task)", "the same for the target"),
    ),
)  # fmt: skip
