"""SEC: strings of three to seven letters to reverse, learned by rewards, by what there is to learn from each length."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import LONG_RATES, SAMPLES, Arm
from benchmarks.learning.bed import PROMPTS, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored
from benchmarks.samplers.bed import learned, marks, strings
from genepool.testbed.data import Lengths
from genepool.testbed.skills import SKILLS

_LENGTHS = (3, 4, 5, 6, 7)
_NAMES = tuple(f"reverse-{length}-{length}" for length in _LENGTHS)
_STEPS = 60


def _by_rewards(sampler: str, options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    folders = [strings(bed, SKILLS["reverse"], Lengths(length, length)) for length in _LENGTHS]
    made = learned(
        bed, folders, rate, sampler, options, base=bed.half.model, objective="grpo", steps=_STEPS, batch=PROMPTS,
        options={"samples": SAMPLES, "reward": "metric"},
    )  # fmt: skip
    return Learned("", made.steps, made.generated, marks=marks(bed, made.model, folders), out=made.out)


def _arm(name: str, words: str, sampler: str, **options: Any) -> Arm:
    return Arm(name, words, partial(_by_rewards, sampler, options), LONG_RATES)


ARMS = (
    _arm("lengths, sec", "strings of 3 to 7 letters by GRPO, lengths by SEC (the paper's rule)", "sec"),
    _arm("lengths, sec decays", "the same by its code's rule: what is not drawn decays", "sec", undrawn="decay"),
    _arm("lengths, sec permuted", "the paper's rule with shuffled advantages", "sec", permuted=True),
    _arm("lengths, uniform", "lengths drawn by their sizes", "uniform"),
    _arm("lengths, stratified", "lengths in equal parts", "stratified"),
)

_SEC, _ALL = "Chen et al. 2025 (SEC)", "{} minus {} (all lengths)"


def _claim(name: str, words: str, first: str, second: str, what: str) -> LearningClaim:
    return LearningClaim(name, words, _SEC, (first, second), scored(first, second, _NAMES), better(what))


CLAIMS = (
    _claim("sec", "SEC learns more than uniform draws", "lengths, sec", "lengths, uniform",
           _ALL.format("SEC", "uniform draws")),
    _claim("sec-stratified", "SEC learns more than equal parts", "lengths, sec", "lengths, stratified",
           _ALL.format("SEC", "equal parts")),
    _claim("sec-advantages", "What it observes is why", "lengths, sec", "lengths, sec permuted",
           _ALL.format("SEC", "SEC with shuffled advantages")),
    _claim("sec-code", "The rule of its code learns more than uniform draws", "lengths, sec decays",
           "lengths, uniform", _ALL.format("SEC by its code's rule", "uniform draws")),
)  # fmt: skip
