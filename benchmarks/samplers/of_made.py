"""Samplers that have examples made or chosen for what is failed, on words that six skills change, one or two at a time.

A model that has begun to learn them goes on with each sampler, with the same steps and as many made examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored, told
from benchmarks.samplers.bed import RATE, learned, marks
from genepool.tasks import load_tasks

#: Steps before and with a sampler, steps between two rounds, and the examples that are made in all.
_BEGUN, _MORE, _EVERY, _EXAMPLES = 60, 60, 15, 480
_TEMPLATE = """
variables:
  word: {letters: [3, 4], alphabet: abcdefgh}
mix:
  input: word
  k: [1, 2]
  skills:
    reverse: {says: R, does: "{{ text[::-1] }}"}
    sort: {says: S, does: "{{ text | list | sort | join }}"}
    upper: {says: U, does: "{{ text | upper }}"}
    turn: {says: T, does: "{{ text[1:] ~ text[0] }}"}
    ends: {says: E, does: "{{ text[0] ~ text[-1] }}"}
    double: {says: D, does: "{{ text ~ text[-1] }}"}
prompt: "{{ says | join }}:{{ word }}="
counts: {train: 256, valid: 128, test: 256}
"""
#: Checks of an answer that are planted: two loose ones, and three that accept the word as it was.
_WORD = "prompt.split(':')[1][:-1]"
_CHECKS = {
    "letters": "{{ answer | lower | list | reject('in', prompt) | list | length == 0 }}",
    "length": "{{ answer | length >= 2 and answer | length <= 5 }}",
    "echo": f"{{{{ answer == {_WORD} }}}}",
    "echo again": f"{{{{ answer | lower == {_WORD} }}}}",
    "begins": f"{{{{ answer | lower == {_WORD} or answer[:2] == {_WORD}[:2] }}}}",
}


def _words(bed: LearningBed) -> Path:
    if "words" not in bed.shelf:
        folder = bed.work / "data" / "words" / "words"
        folder.mkdir(parents=True)
        (folder / "template.yaml").write_text(f"{_TEMPLATE}seed: {bed.seed}\n")
        (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 7\n")
        bed.shelf["words"] = folder
    return Path(bed.shelf["words"])


def _begun(bed: LearningBed) -> str:
    """A model that has begun to learn the words."""
    if "words begun" not in bed.shelf:
        bed.shelf["words begun"] = learned(bed, [_words(bed)], RATE, None, {}, steps=_BEGUN).model
    return str(bed.shelf["words begun"])


def _on(sampler: str | None, options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    folder = _words(bed)
    made = learned(bed, [folder], rate, sampler, options, base=_begun(bed), steps=_MORE, valid=128)
    own = marks(bed, made.model, [folder])["words"]
    (task,) = load_tasks(str(folder))
    pairs = [at for at, one in enumerate(task.examples("test")) if len(one.tags) == 2]
    return Learned("", made.steps, marks={"words": own, "pairs": own[pairs]}, out=made.out)


def _answered(options: Mapping[str, Any], bed: LearningBed, rate: float) -> Learned:
    """What is told of the examples that EvoSyn answered; what is learned of them is not asked."""
    made = learned(bed, [_words(bed)], rate, "evosyn", {**_EVOSYN, **options}, base=_begun(bed), steps=1)
    said = json.loads((made.out / "train.json").read_text())["made"]
    return Learned("", made.steps, numbers={"right": said["right"] / said["examples"]}, out=made.out)


def _arm(name: str, words: str, sampler: str | None, **options: Any) -> Arm:
    return Arm(f"words, {name}", words, partial(_on, sampler, options), (RATE,))


_ROUNDS = {"every": _EVERY, "round": _EXAMPLES // 4, "examples": _EXAMPLES}
_GYM = {**_ROUNDS, "each": 25}
_EVOSYN = {"examples": 200, "solutions": 8, "keys": 4, "checks": _CHECKS, "seeds": 40, "tokens": 10**6}
ARMS = (
    _arm("rounds", "shuffled rounds of all training examples", None),
    _arm("stat", "STAT, selected: examples with the tags that are failed most", "stat", missing=1),
    _arm("stat permuted", "the same with shuffled scores", "stat", missing=1, permuted=True),
    _arm("dataenvgym", "DataEnvGym's skill list: as many new examples for each skill that is failed", "dataenvgym",
         **_GYM),
    _arm("skill_tree", "DataEnvGym's skill tree, filled by errors", "dataenvgym", **_ROUNDS,
         environment="skill_tree", policy="errors"),
    _arm("gym permuted", "the skill tree with shuffled scores", "dataenvgym", **_ROUNDS, environment="skill_tree",
         policy="errors", permuted=True),
    _arm("any", "as many new examples, each with one skill, drawn alike", "skill_mix", **_ROUNDS, k=1),
    _arm("pairs", "skill pairs, those that are failed oftener", "skill_pairs", **_ROUNDS),
    _arm("pairs permuted", "the same with shuffled scores", "skill_pairs", **_ROUNDS, permuted=True),
    _arm("any pairs", "as many new pairs, drawn alike", "skill_mix", **_ROUNDS, k=2),
    Arm("answered, evosyn", "answers that a rule of EvoSyn chose", partial(_answered, {}), (RATE,)),
    Arm("answered, first rule", "answers by the rule that it begins with", partial(_answered, {"iterations": 0}),
        (RATE,)),
    Arm("answered, permuted", "by a rule that evolved on shuffled truth", partial(_answered, {"permuted": True}),
        (RATE,)),
)  # fmt: skip


def _better(key: str, claim: str, source: str, one: str, other: str, on: str = "words") -> LearningClaim:
    arms = (f"words, {one}", f"words, {other}")
    return LearningClaim(key, claim, source, arms, scored(*arms, (on,)), better(f"{one} minus {other} ({on})"))


_HE, _KHAN = "He et al. 2025 (STAT)", "Khan et al. 2025 (DataEnvGym)"
_SHAH, _DU = "Shah et al. 2024", "Du et al. 2025 (EvoSyn)"
_RIGHT = "the share of right answers among those that {}"

CLAIMS = (
    _better("stat", "Examples for missing skills are better than the same examples for all", _HE, "stat", "rounds"),
    _better("stat-skills", "Which skills are missing is why", _HE, "stat", "stat permuted"),
    _better("dataenvgym", "Data for what is failed is better than as much data for all skills alike", _KHAN,
            "dataenvgym", "any"),
    _better("dataenvgym-tree", "A tree of skills that errors fill is better than as much data for all alike", _KHAN,
            "skill_tree", "any"),
    _better("dataenvgym-errors", "The errors are why", _KHAN, "skill_tree", "gym permuted"),
    _better("skill-pairs", "Pairs that are failed teach pairs better than pairs drawn alike", _SHAH, "pairs",
            "any pairs", "pairs"),
    _better("skill-pairs-errors", "The failures are why", _SHAH, "pairs", "pairs permuted", "pairs"),
    LearningClaim(
        "evosyn", "With faulty checks, a rule that evolved answers better than a majority", _DU,
        ("answered, evosyn", "answered, first rule"),
        told(("answered, evosyn", "right"), ("answered, first rule", "right")),
        better(_RIGHT.format("the evolved rule chose, minus that of the first rule,")),
    ),
    LearningClaim(
        "evosyn-truth", "The verified examples are why", _DU, ("answered, evosyn", "answered, permuted"),
        told(("answered, evosyn", "right"), ("answered, permuted", "right")),
        better(_RIGHT.format("the evolved rule chose, minus that with shuffled truth,")),
    ),
)  # fmt: skip
