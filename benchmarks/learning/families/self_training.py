"""Loops in which a model learns from what it wrote itself, against loops without the part that is claimed to help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.verdict import better, kept
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import LABELS, TARGET, Data, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, less, target, told, within
from genepool.training.loops.data import Line, read_lines
from genepool.training.loops.folder import read_mark

Stages = Sequence[Mapping[str, Any]]

#: Learning rates of the rounds of a loop; of preferences the best are lower than those of likelihood.
_RATES = (3e-4, 1.5e-3)
#: That of a likelihood training that comes before.
_TAUGHT = 1.5e-3
#: Prompts of a round.
_ROUND = 64
# Rewards are 0 or 1, so that e^r is from 1 to e.
_FALL = 0.05


def written(made: Learned, name: str) -> list[tuple[int, list[Line]]]:
    """All lines of a name that a loop wrote, each time with the round."""
    found = []
    tasks = {TARGET: None}
    for folder in sorted((made.out / "stages").iterdir()):
        mark = read_mark(folder)
        if mark is not None and name in mark.lines:
            lines = read_lines(folder / f"{name}.jsonl", mark.lines[name], tasks)  # type: ignore[arg-type]
            found.append((mark.round, lines))
    return found


# ---------------------------------------------------------------------- iterative

#: From easy to hard, until the model knows a part of the skill.
_EASY_TO_HARD: Stages = (
    {"draw": {"count": LABELS, "to": "pool"}},
    {"draw": {"of": "pool", "by": "likelihood", "part": [0, 0.5], "to": "easy"}},
    {"draw": {"of": "pool", "by": "likelihood", "part": [0.5, 1], "to": "hard"}},
    {"train": {"of": "easy", "steps": 8, "learning_rate": _TAUGHT}},
    {"train": {"of": "hard", "steps": 8, "learning_rate": _TAUGHT}},
)


def _after_easy_to_hard(stages: Stages, bed: LearningBed, rate: float) -> Learned:
    """Three rounds whose last stage is a training of 8 steps, at the rate."""
    *before, last = stages
    training = {"train": {**last["train"], "steps": 8, "learning_rate": rate}}
    return bed.loop(bed.labelled, first=_EASY_TO_HARD, rounds=3, round=(*before, training), training={"batch": 16})


_DRAWN = {"draw": {"count": _ROUND}}
_ITERATIVE: Mapping[str, tuple[str, Stages]] = {
    "iterative": (
        "supervised from easy to hard, then three rounds in which known answers are preferred to the model's failures",
        (_DRAWN, {"sample": {"samples": 4}}, {"pair": {"chosen": "answer"}},
         {"train": {"of": "pairs", "objective": "dpo"}}),
    ),
    "easy to hard, then sft": (
        "the same, with the known answers of the same prompts",
        (_DRAWN, {"train": {"of": "prompts"}}),
    ),
    "easy to hard, then best of n": (
        "the same, with the right ones of its samples",
        (_DRAWN, {"sample": {"samples": 4}}, {"select": {"at_least": 1.0}}, {"train": {}}),
    ),
}  # fmt: skip


# ---------------------------------------------------------------------- self-curated


def _curated(real: float, bed: LearningBed, rate: float) -> Learned:
    """Four rounds on all prompts, and a look at what is written after the last one."""
    sample = {"sample": {"samples": 4}}
    select = {"select": {"by": "bradley_terry", "scale": 0.25, "real": real}}
    made = bed.loop(
        bed.labelled, base=bed.half.model, rounds=4, training={"batch": 16, "learning_rate": rate},
        round=({"draw": {}}, sample, select, {"train": {"steps": 12}}), last=({"draw": {}}, sample),
    )  # fmt: skip
    rewards, different = [], []
    for _, lines in written(made, "samples"):
        rewards.append(np.mean([math.exp(reward) for line in lines for reward in line.rewards]))
        different.append(np.mean([len({one.text for one in line.samples}) / len(line.samples) for line in lines]))
    return made.saying(
        **{
            "e^r first": float(rewards[0]),
            "e^r last": float(rewards[-1]),
            "e^r least change": float(np.diff(rewards).min()),
            "different first": float(different[0]),
            "different last": float(different[-1]),
        }
    )


# ---------------------------------------------------------------------- self-refinement


def _asked_later(bed: LearningBed) -> Data:
    """The labelled prompts, with prompts to be asked in the end that are in no other split."""
    if "asked later" not in bed.shelf:
        lines = [{"prompt": one.prompt, "answer": one.answer} for one in bed.examples("main")]
        asked = [{"prompt": one.prompt, "answer": one.answer} for one in bed.tasks[TARGET].examples("valid")]
        bed.shelf["asked later"] = bed.written("asked-later", lines, len(lines), valid=asked)
    found: Data = bed.shelf["asked later"]
    return found


def _refined(bed: LearningBed, rate: float) -> Learned:
    template = {"template": "{prompt}{answer};"}
    one = {"sample": {"samples": 1}}
    made = bed.loop(
        _asked_later(bed), base=bed.less.model, rounds=2, training={"batch": 16, "learning_rate": rate},
        first=(
            {"draw": {"count": 128}}, one, {"refine": {"by": "answer", **template}},
            {"train": {"of": "refinements", "steps": 80}},
        ),
        round=(
            {"draw": {"count": 96}}, one, {"refine": template}, {"train": {"of": "refinements", "steps": 10}},
            {"pair": {"of": "refined", "chosen": "last", "rejected": "first"}},
            {"train": {"of": "pairs", "objective": "dpo", "steps": 6, "learning_rate": 3e-4}},
        ),
        last=({"draw": {"split": "valid"}}, {"sample": {"samples": 3}}, {"refine": template}),
    )  # fmt: skip
    (*_, (_, refined)), (*_, (_, sampled)) = written(made, "refined"), written(made, "samples")
    votes = [_voted([one.text for one in line.samples], line.rewards) for line in sampled]
    first, second = zip(*([one.reward or 0.0 for one in line.samples[:2]] for line in refined), strict=True)
    marks = {"first answer": np.array(first), "second answer": np.array(second), "vote of 3": np.array(votes)}
    return Learned("", made.steps, made.generated, made.labels, marks=marks)


def _voted(texts: Sequence[str], rewards: Sequence[float]) -> float:
    """The reward of the most frequent text; of equally frequent ones the first."""
    return rewards[max(range(len(texts)), key=lambda at: (texts.count(texts[at]), -at))]


# ---------------------------------------------------------------------- self-play


def _short(bed: LearningBed) -> Data:
    """The shorter half of the prompts: what is evolved of them has to reach the longer ones."""
    if "short" not in bed.shelf:
        found = sorted(bed.examples("main", 2 * LABELS), key=lambda one: len(one.prompt))[:LABELS]
        lines = [{"prompt": one.prompt, "answer": one.answer} for one in found]
        bed.shelf["short"] = bed.written("short", lines, len(lines))
    data: Data = bed.shelf["short"]
    return data


def _self_play(uniform: bool, bed: LearningBed, rate: float) -> Learned:
    evolve = {"evolve": {"template": "{prompt}", "into": "R:{text}=", "uniform": uniform}}
    return bed.loop(
        _short(bed), base=bed.half.model, rounds=3, training={"batch": 16, "learning_rate": rate},
        first=({"draw": {"count": _ROUND}},),
        round=(
            {"sample": {"samples": 8, "reward": "majority"}}, {"pair": {}},
            {"train": {"of": "pairs", "objective": "dpo", "steps": 8}}, evolve,
        ),
    )  # fmt: skip


ARMS = (
    *(Arm(name, words, partial(_after_easy_to_hard, stages), _RATES) for name, (words, stages) in _ITERATIVE.items()),
    Arm("self-curated", "four rounds on one of four own answers to each prompt, drawn by Bradley-Terry, from the "
        "half-known model", partial(_curated, 0.0), (_TAUGHT,)),
    Arm("self-curated, half real", "the same, half of the lessons being known answers", partial(_curated, 0.5),
        (_TAUGHT,)),
    Arm("self-refinement", "EVOLVE from the model that knows less, asked for first and second answers", _refined,
        (_TAUGHT,)),
    Arm("self-play", "eva from the half-known model, on short prompts and what it evolved of the telling ones",
        partial(_self_play, False), _RATES),
    Arm("self-play, uniform", "the same, any prompt being evolved", partial(_self_play, True), _RATES),
)  # fmt: skip

_ITOOL, _CURATED, _EVOLVE = "Zeng et al. 2025 (iTool)", "Ferbach et al. 2024", "Zeng et al. 2025 (EVOLVE)"
_SAME = "the same prompts, steps and known answers"

CLAIMS = (
    LearningClaim(
        "iterative-sft", "Preferring known answers to own failures beats supervised training", _ITOOL,
        ("iterative", "easy to hard, then sft"), target("iterative", "easy to hard, then sft"),
        better(f"three rounds of preferences minus three of likelihood, {_SAME} (target)"),
    ),
    LearningClaim(
        "iterative-best", "Preferring known answers to own failures beats fine-tuning on the best of n", _ITOOL,
        ("iterative", "easy to hard, then best of n"), target("iterative", "easy to hard, then best of n"),
        better("three rounds of preferences minus three on right samples, the same prompts and steps (target)"),
    ),
    LearningClaim(
        "curated-reward", "Retraining on curated own answers never lowers the mean of e^r", _CURATED,
        ("self-curated",), told(("self-curated", "e^r least change"), 0.0),
        kept("the least change of the mean of e^r from one round to the next, minus 0,", _FALL),
        "r is 0 or 1",
    ),
    LearningClaim(
        "curated-diversity", "Retraining on curated own answers alone loses their diversity", _CURATED,
        ("self-curated",), told(("self-curated", "different last"), ("self-curated", "different first")),
        less("the share of different texts among a prompt's samples after four rounds minus before"),
        "known answers are one a prompt here, so that they can keep no diversity: half real is not asked",
    ),
    LearningClaim(
        "refined-first", "The second answer is better than the first", _EVOLVE,
        ("self-refinement",), within("self-refinement", "second answer", "first answer"),
        better("second answers minus first answers (validation prompts, drawn at temperature 1)"),
    ),
    LearningClaim(
        "refined-vote", "The second answer is better than a vote over new samples", _EVOLVE,
        ("self-refinement",), within("self-refinement", "second answer", "vote of 3"),
        better("second answers minus a vote over three first answers (validation prompts)"),
        "a second answer costs two answers, a vote of two would be the first",
    ),
    LearningClaim(
        "self-play", "Evolving the prompts that tell most beats evolving any", "Ye et al. 2024 (eva)",
        ("self-play", "self-play, uniform"), target("self-play", "self-play, uniform"),
        better("prompts drawn by the gap of their rewards minus prompts drawn uniformly, equally many (target)"),
        "trained on short prompts, asked all lengths",
    ),
)  # fmt: skip
