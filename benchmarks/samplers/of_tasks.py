"""Samplers whose arms are tasks: Skill-it on skills that prepare for another, and power-law rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims.verdict import better, kept
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, less, scored, told
from benchmarks.samplers.bed import COUNTS, FOUR, RATE, last_loss, learned, marks, strings
from genepool.testbed.data import Lengths
from genepool.testbed.pairs import pair_of
from genepool.testbed.skills import SKILLS

#: Two skills, and the task to apply one after the other, which no model here has seen.
_PAIR = pair_of(SKILLS["reverse"], SKILLS["caesar"])
_LENGTHS = Lengths(4, 5)
_NAMES = {task.name: f"{task.name}-4-5" for task in (*_PAIR.parts, _PAIR)}
_PREPARE = [[_NAMES["reverse"], _NAMES[_PAIR.name]], [_NAMES["caesar"], _NAMES[_PAIR.name]]]
#: The same number of edges, from what is prepared for to what prepares: the graph turned round.
_TURNED = [[second, first] for first, second in _PREPARE]
#: Steps between two checkpoints: ten of them in a training.
_CHECKPOINT = 10
#: Steps of power-law rehearsal, a task each.
_LONG = 160


def _prepared(sampler: str, options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    folders: list[Path] = [strings(bed, task, _LENGTHS) for task in (*_PAIR.parts, _PAIR)]
    made = learned(bed, folders, rate, sampler, options, steps=100, valid=COUNTS["valid"])
    numbers = {"loss": last_loss(made)}
    found = marks(bed, made.model, folders[-1:])
    return Learned("", made.steps, numbers=numbers, marks={"pair": found[_NAMES[_PAIR.name]]}, out=made.out)


def _four(sampler: str, options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    made = learned(bed, [bed.bed.tasks / name for name in FOUR], rate, sampler, options, steps=_LONG)
    return Learned("", made.steps, marks=bed.ask(bed.source(made.model), FOUR), out=made.out)


def _arm(name: str, words: str, make: Any, sampler: str, **options: Any) -> Arm:
    return Arm(name, words, partial(make, sampler, options), (RATE,))


_SKILL_IT = {"checkpoint": _CHECKPOINT, "edges": _PREPARE}
ARMS = (
    _arm("prepared, skill_it", "reverse, caesar and one after the other: Skill-it with the true graph", _prepared,
         "skill_it", **_SKILL_IT),
    _arm("prepared, turned graph", "the same with the graph turned round", _prepared, "skill_it",
         **{**_SKILL_IT, "edges": _TURNED}),
    _arm("prepared, permuted", "the same with shuffled losses", _prepared, "skill_it", **_SKILL_IT, permuted=True),
    _arm("prepared, stratified", "the three tasks in equal parts", _prepared, "stratified"),
    _arm("prepared, uniform", "the three tasks by their sizes", _prepared, "uniform"),
    _arm("four, power_law", "four skills, a task a step with a chance ~ 1 / lag", _four, "power_law"),
    _arm("four, any task", "a task a step, each as likely as any other", _four, "power_law", exponent=0.0),
    _arm("four, stratified", "four skills in equal parts of each step", _four, "stratified"),
)  # fmt: skip

_CHEN, _LOSS = "Chen et al. 2023 (Skill-it)", "the last loss of {} (validation examples of all three tasks)"
_POWER = "power-law statistics of rehearsal"

CLAIMS = (
    LearningClaim(
        "skill-it", "Skill-it learns more than equal parts of each task", _CHEN,
        ("prepared, skill_it", "prepared, stratified"),
        told(("prepared, skill_it", "loss"), ("prepared, stratified", "loss")),
        less(_LOSS.format("Skill-it minus that of equal parts")),
        "after 100 steps both know the three tasks nearly perfectly, which leaves little to differ in",
    ),
    LearningClaim(
        "skill-it-graph", "The graph is why: turned round it is worse", _CHEN,
        ("prepared, skill_it", "prepared, turned graph"),
        told(("prepared, skill_it", "loss"), ("prepared, turned graph", "loss")),
        less(_LOSS.format("Skill-it minus that with the graph turned round")),
    ),
    LearningClaim(
        "skill-it-losses", "What it observes is why: with shuffled losses it is worse", _CHEN,
        ("prepared, skill_it", "prepared, permuted"),
        told(("prepared, skill_it", "loss"), ("prepared, permuted", "loss")),
        less(_LOSS.format("Skill-it minus that with shuffled losses")),
    ),
    LearningClaim(
        "power-law", "Practice by a power law is better than practice at random, a task at a time", _POWER,
        ("four, power_law", "four, any task"), scored("four, power_law", "four, any task", FOUR),
        better("the power law minus any task (four skills)"),
        same_examples=True,
    ),
    LearningClaim(
        "power-law-mixed", "Practice by a power law loses little beside equal parts in each step", _POWER,
        ("four, power_law", "four, stratified"), scored("four, power_law", "four, stratified", FOUR),
        kept("the power law minus equal parts (four skills)"),
        same_examples=True,
    ),
)  # fmt: skip
