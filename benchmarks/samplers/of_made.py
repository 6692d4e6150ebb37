"""Samplers that have examples made or chosen for what is failed, on words that six skills change, one or two at a time.

A model that has begun to learn them goes on with each sampler, with the same steps and as many made examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.verdict import better
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored, told
from benchmarks.samplers.bed import RATE, learned, marks
from genepool.seeding import numpy_generator
from genepool.tasks import load_tasks
from genepool.training.answer_ranking import Checked, agreement, evolved

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
#: Answers of a problem; checks of it that know, that accept nearly all, and that like wrong answers better; verified
#: problems, and problems that no rule saw.
_ANSWERS, _GOOD, _LOOSE, _WRONG, _VERIFIED, _UNSEEN = 8, 4, 4, 4, 40, 200


def _words(bed: LearningBed, *, more: bool = False) -> Path:
    """The task; or with `more` as many other training examples of its template as samplers may have made."""
    name = "more words" if more else "words"
    if name not in bed.shelf:
        folder = bed.work / "data" / name / "words"
        folder.mkdir(parents=True)
        template = _TEMPLATE.replace("train: 256", f"train: {_EXAMPLES}") if more else _TEMPLATE
        (folder / "template.yaml").write_text(f"{template}seed: {bed.seed + (1000 if more else 0)}\n")
        (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 7\n")
        bed.shelf[name] = folder
    return Path(bed.shelf[name])


def _begun(bed: LearningBed) -> str:
    """A model that has begun to learn the words."""
    if "words begun" not in bed.shelf:
        bed.shelf["words begun"] = learned(bed, [_words(bed)], RATE, None, {}, steps=_BEGUN).model
    return str(bed.shelf["words begun"])


def _on(
    sampler: str | None, options: Mapping[str, Any], bed: LearningBed, rate: float, *, more: bool = False
) -> Learned:
    folder = _words(bed)
    made = learned(bed, [_words(bed, more=more)], rate, sampler, options, base=_begun(bed), steps=_MORE, valid=128)
    own = marks(bed, made.model, [folder])["words"]
    (task,) = load_tasks(str(folder))
    pairs = [at for at, one in enumerate(task.examples("test")) if len(one.tags) == 2]
    return Learned("", made.steps, marks={"words": own, "pairs": own[pairs]}, out=made.out)


def _planted(seed: int, name: str, count: int) -> list[Checked]:
    """Problems with planted checks: good ones are wrong of one answer in twenty; most others are faulty."""
    generator = numpy_generator(seed, "planted", name)
    found = []
    for _ in range(count):
        right = generator.permutation(np.arange(_ANSWERS) < 3)
        good = np.repeat(right[:, None], _GOOD, axis=1) ^ (generator.random((_ANSWERS, _GOOD)) < 0.05)
        loose = generator.random((_ANSWERS, _LOOSE)) < 0.95
        wrong = generator.random((_ANSWERS, _WRONG)) < np.where(right, 0.7, 0.95)[:, None]
        found.append(Checked(np.concatenate([good, loose, wrong], axis=1), right))
    return found


def _ranked(rounds: int, shuffled: bool, bed: LearningBed, rate: float) -> Learned:
    """How often the best answer of a rule is right, and how often the rule is consistent, on problems it never saw."""
    seen, unseen = (_planted(bed.seed, name, size) for name, size in (("seen", _VERIFIED), ("unseen", _UNSEEN)))
    if shuffled:
        truth = numpy_generator(bed.seed, "planted", "shuffled").permutation(
            np.concatenate([one.right for one in seen])
        )
        seen = [Checked(one.passes, own) for one, own in zip(seen, np.split(truth, _VERIFIED), strict=True)]
    rule, _ = evolved(seen, bed.seed, rounds=rounds)
    best = [bool(one.right[int(rule.scores(one.passes)[0].argmax())]) for one in unseen]
    return Learned("", numbers={"right": sum(best) / len(best), "agreement": agreement(rule, unseen)})


def _arm(name: str, words: str, sampler: str | None, **options: Any) -> Arm:
    return Arm(f"words, {name}", words, partial(_on, sampler, options), (RATE,))


_ROUNDS = {"every": _EVERY, "round": _EXAMPLES // 4, "examples": _EXAMPLES}
_GYM = {**_ROUNDS, "each": 25}
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
    Arm("words, any", "as many new examples as the template draws them", partial(_on, None, {}, more=True), (RATE,)),
    _arm("pairs", "skill pairs, those that are failed oftener", "skill_pairs", **_ROUNDS),
    _arm("pairs permuted", "the same with shuffled scores", "skill_pairs", **_ROUNDS, permuted=True),
    _arm("any pairs", "as many new pairs, drawn alike", "skill_mix", **_ROUNDS, k=2),
    Arm("planted, evosyn", f"a rule of EvoSyn that evolved for 20 rounds; {_LOOSE + _WRONG} checks of "
        f"{_GOOD + _LOOSE + _WRONG} are faulty", partial(_ranked, 20, False), (RATE,), bare=True),
    Arm("planted, majority", "the rule that it begins with: an answer that passes more checks is better",
        partial(_ranked, 0, False), (RATE,), bare=True),
    Arm("planted, shuffled", "a rule that evolved on shuffled truth", partial(_ranked, 20, True), (RATE,), bare=True),
)  # fmt: skip


def _better(key: str, claim: str, source: str, one: str, other: str, on: str = "words") -> LearningClaim:
    arms = (f"words, {one}", f"words, {other}")
    return LearningClaim(key, claim, source, arms, scored(*arms, (on,)), better(f"{one} minus {other} ({on})"))


_HE, _KHAN = "He et al. 2025 (STAT)", "Khan et al. 2025 (DataEnvGym)"
_SHAH, _DU = "Shah et al. 2024", "Du et al. 2025 (EvoSyn)"
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
        "evosyn", "With faulty checks, a rule that evolved agrees with the truth oftener than a majority", _DU,
        ("planted, evosyn", "planted, majority"),
        told(("planted, evosyn", "agreement"), ("planted, majority", "agreement")),
        better("the agreement of the evolved rule minus that of the majority, on problems that neither saw,"),
        "agreement also asks that the best check tells the best from the worst answer; the majority's best check is "
        "the one that accepts most, and its answers alone are right as often (evosyn-answers)",
    ),
    LearningClaim(
        "evosyn-answers", "Its best answers are oftener right too", _DU,
        ("planted, evosyn", "planted, majority"),
        told(("planted, evosyn", "right"), ("planted, majority", "right")),
        better("the share of right best answers of the evolved rule minus that of the majority"),
    ),
    LearningClaim(
        "evosyn-truth", "The verified problems are why", _DU, ("planted, evosyn", "planted, shuffled"),
        told(("planted, evosyn", "agreement"), ("planted, shuffled", "agreement")),
        better("the agreement of the evolved rule minus that of one which evolved on shuffled truth"),
    ),
)  # fmt: skip
