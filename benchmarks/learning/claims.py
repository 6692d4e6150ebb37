"""What the papers say of learning, asked of the cells: for each claim its source, its arms, and its rule.

The rules were written before the figures. Verdicts and intervals are those of the other claims (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.verdict import Contrast, Figure, Rule, better, better_at_no_cost, failing
from benchmarks.claims.worlds import GENERIC
from benchmarks.composition.cells import Cell, Cells, Key
from benchmarks.learning.bed import KIND, TARGET

SEEDS = 5
#: The verdict of a claim some of whose seeds are missing.
OPEN = "not decided yet"
# Points of the target's score within which two arms are equally good; of a compatible update, as its authors' tables.
_EQUAL, _POINT = 0.03, 0.01

#: The marks of an arm by task, and what is compared in those of some arms, by the names of figures.
Marks = Mapping[str, np.ndarray]
Compare = Callable[[Mapping[str, Marks]], dict[str, Contrast]]


@dataclass(frozen=True)
class LearningClaim:
    """One claim.

    Attributes:
        name: in the page.
        words: the claim.
        source: where it is made.
        needs: the arms that it is computed from.
        compare: what is compared in them.
        rule: when it holds.
        remark: what a reader must know of the figure, perhaps nothing.
    """

    name: str
    words: str
    source: str
    needs: tuple[str, ...]
    compare: Compare
    rule: Rule
    remark: str = ""


@dataclass(frozen=True)
class AskedClaim:
    """A claim with the seeds of which all cells are there.

    Attributes:
        seeds: these.
        figures: by name; "main" is what the rule is about first.
    """

    claim: LearningClaim
    seeds: tuple[int, ...]
    figures: Mapping[str, Figure]

    @property
    def verdict(self) -> str:
        """One of the words of the other claims, or that seeds are missing: a rule is about all of them."""
        return self.claim.rule.verdict(self.figures) if len(self.seeds) == SEEDS else OPEN


def key_of(arm: str, seed: int) -> Key:
    """The key of a cell; the number of labels is the same for all arms, and is told in the cell."""
    return Key(KIND.name, seed, arm, 0)


def ask(cells: Cells) -> list[AskedClaim]:
    """Every claim that has all its cells for at least two seeds."""
    found = []
    for claim in CLAIMS:
        seeds = sorted(set.intersection(*(set(cells.seeds(KIND.name, arm, 0)) for arm in claim.needs)))
        if len(seeds) > 1:
            found.append(AskedClaim(claim, tuple(seeds), _figures(cells, claim, seeds)))
    return found


def _figures(cells: Cells, claim: LearningClaim, seeds: list[int]) -> dict[str, Figure]:
    def of(arm: str, seed: int) -> Cell:
        return cells[key_of(arm, seed)]

    compared = [claim.compare({arm: of(arm, seed).scores for arm in claim.needs}) for seed in seeds]
    return {name: Figure.of([one[name] for one in compared]) for name in compared[0]}


# ---------------------------------------------------------------------- what is compared


def target(first: str, second: str) -> Compare:
    """Two arms on the target."""
    return lambda marks: {"main": Contrast.of([marks[first][TARGET]], [marks[second][TARGET]])}


def forgotten(first: str, second: str) -> Compare:
    """Two arms on the general task."""
    return lambda marks: {"main": Contrast.of([marks[first][GENERIC]], [marks[second][GENERIC]])}


def keeping(first: str, second: str) -> Compare:
    """The general task ("main") and the target ("guard") of two arms, and what the second one forgets ("room")."""
    return lambda marks: {
        "main": Contrast.of([marks[first][GENERIC]], [marks[second][GENERIC]]),
        "guard": Contrast.of([marks[first][TARGET]], [marks[second][TARGET]]),
        "room": Contrast.of([marks["base"][GENERIC]], [marks[second][GENERIC]]),
    }


def gains(first: str, second: str, before: str) -> Compare:
    """The examples that two arms solve and the model that both began as did not."""

    def compare(marks: Mapping[str, Marks]) -> dict[str, Contrast]:
        was = marks[before][TARGET]
        return {"main": Contrast.of(*([(1 - was) * marks[arm][TARGET]] for arm in (first, second)))}

    return compare


def half_the_losses(first: str, second: str, before: str) -> Compare:
    """The share of examples that an arm loses, beside half of what another loses; the seeds alone make the interval."""

    def compare(marks: Mapping[str, Marks]) -> dict[str, Contrast]:
        was = marks[before][TARGET]
        ours, theirs = (float((was * (1 - marks[arm][TARGET])).mean()) for arm in (first, second))
        return {"main": Contrast(ours, theirs / 2, ())}

    return compare


def complement(teacher: str, student: str) -> Compare:
    """The share of examples that a teacher solves and its student does not."""

    def compare(marks: Mapping[str, Marks]) -> dict[str, Contrast]:
        known = marks[teacher][TARGET] * (1 - marks[student][TARGET])
        return {"main": Contrast.of([known], [np.zeros_like(known)])}

    return compare


def negative_flips(first: str, second: str, old: str) -> Compare:
    """What an old version solves and two new ones do not ("main"), and the scores of both ("guard")."""

    def compare(marks: Mapping[str, Marks]) -> dict[str, Contrast]:
        was = marks[old][TARGET]
        return {
            "main": Contrast.of(*([was * (1 - marks[arm][TARGET])] for arm in (first, second))),
            "guard": Contrast.of([marks[first][TARGET]], [marks[second][TARGET]]),
        }

    return compare


# ---------------------------------------------------------------------- rules


def less(what: str) -> Rule:
    """The first arm has less: the whole interval is below 0."""
    return Rule(f"the interval of {what} is below 0", lambda figures: figures["main"].hi < 0, wants_more=False)


def _fewer_flips(what: str, score: str) -> Rule:
    return Rule(
        f"the interval of {what} is below 0, and the interval of {score} is above -{_POINT}",
        lambda figures: figures["main"].hi < 0 and figures["guard"].lo > -_POINT,
        wants_more=False,
    )


_ROTH = "Roth et al. 2024 (any-to-any transfer)"
_KORBAK = "after Korbak et al. 2023, who pretrain"
_SFT = "the same training by likelihood"

CLAIMS = (
    LearningClaim(
        "dpo", "DPO beats supervised training on the chosen answers", "after Rafailov et al. 2023",
        ("dpo", "sft on chosen"), target("dpo", "sft on chosen"),
        better("DPO minus supervised training on the same pairs (target)"),
        "both begin at the base; the rejected answers are the base's own mistakes",
    ),
    LearningClaim(
        "dpo-after", "Half supervised, then half by DPO beats supervised steps alone", "Rafailov et al. 2023",
        ("sft then dpo", "sft on chosen"), target("sft then dpo", "sft on chosen"),
        better("supervised training and then DPO minus supervised training, equally many steps (target)"),
    ),
    LearningClaim(
        "grpo", "GRPO teaches a skill from rewards alone", "Shao et al. 2024",
        ("grpo", "base"), target("grpo", "base"), better("GRPO minus the base (target)"),
    ),
    LearningClaim(
        "reinforcement-forgets", "Reinforcement forgets what is not rewarded", "ours",
        ("grpo", "base"), forgotten("grpo", "base"), less("GRPO minus the base (general task)"),
    ),
    LearningClaim(
        "kl-anchor", "A weight on the divergence from the base keeps more of it", "after Ouyang et al. 2022",
        ("grpo, kl", "grpo", "base"), keeping("grpo, kl", "grpo"),
        better_at_no_cost("GRPO with kl=0.1 minus without (general task)", "the same for the target"),
    ),
    LearningClaim(
        "razor", "Reinforcement forgets less than supervised training at equal skill", "Shenfeld et al. 2025",
        ("grpo", "sft, long", "base"), keeping("grpo", "sft, long"),
        better_at_no_cost(
            "GRPO minus supervised training, equally many steps (general task)", "the same for the target"
        ),
    ),
    LearningClaim(
        "majority-destroys", "The majority as a reward destroys a half-known skill", "ours",
        ("majority, half-known", "half-known"), target("majority, half-known", "half-known"),
        failing("the half-known model after GRPO on the majority minus before (target)"),
        "the refusal of majorities that are mostly wrong was switched off",
    ),
    LearningClaim(
        "metric-completes", "The metric as a reward completes a half-known skill", "the control of the claim above",
        ("metric, half-known", "half-known"), target("metric, half-known", "half-known"),
        better("the half-known model after GRPO on the metric minus before (target)"),
    ),
    LearningClaim(
        "complement-weaker", "A weaker teacher knows what its student does not", _ROTH,
        ("less known", "half-known"), complement("less known", "half-known"),
        better("the share of examples that the weaker teacher alone solves, minus 0,"),
    ),
    LearningClaim(
        "complement-specialist", "A stronger teacher knows what its student does not", _ROTH,
        ("specialist", "half-known"), complement("specialist", "half-known"),
        better("the share of examples that the specialist alone solves, minus 0,"),
    ),
    *(
        claim
        for word, teacher in (("weaker", "weaker teacher"), ("specialist", "specialist"))
        for ours, plain in [(f"any_to_any, {teacher}", f"plain KL, {teacher}")]
        for claim in (
            LearningClaim(
                f"transfer-gains-{word}", f"Any-to-any transfer gains more than plain KL ({teacher})", _ROTH,
                (ours, plain, "half-known"), gains(ours, plain, "half-known"),
                better("any-to-any minus plain KL (share of examples that are newly solved)"),
            ),
            LearningClaim(
                f"transfer-losses-{word}",
                f"Any-to-any transfer loses less than half of what plain KL loses ({teacher})", _ROTH,
                (ours, plain, "half-known"), half_the_losses(ours, plain, "half-known"),
                less("any-to-any minus half of plain KL (share of examples that are solved no more)"),
            ),
        )
    ),
    LearningClaim(
        "muscle", "MUSCLE makes fewer negative flips than a plain update", "Echterhoff et al. 2024",
        ("muscle", "new version, trained on", "half-known"),
        negative_flips("muscle", "new version, trained on", "half-known"),
        _fewer_flips(
            "MUSCLE minus the new version trained on by likelihood (share of examples that the old version solves and "
            "the new one does not)",
            "the same for the target",
        ),
    ),
    LearningClaim(
        "lwf", "Learning without forgetting keeps more at equal skill", "Li and Hoiem 2016",
        ("lwf", "sft", "base"), keeping("lwf", "sft"),
        better_at_no_cost(f"LwF minus {_SFT} (general task)", "the same for the target"),
    ),
    LearningClaim(
        "gkd-samples", "GKD beats supervised training on the teacher's samples", "Agarwal et al. 2024",
        ("gkd", "sft on samples"), target("gkd", "sft on samples"),
        better("GKD minus supervised training on at least as many tokens of the teacher (target)"),
    ),
    LearningClaim(
        "gkd-distance", "GKD beats plain distillation", "Agarwal et al. 2024",
        ("gkd", "distance on samples"), target("gkd", "distance on samples"),
        better("GKD minus the teacher's predictions on at least as many tokens of its own (target)"),
    ),
    *(
        LearningClaim(
            f"{name}-{against}", f"{words} {said}", _KORBAK,
            (name, f"sft on {against}"), target(name, f"sft on {against}"),
            better(f"{name} minus {control} (target)"),
        )
        for name, words in (("unlikelihood", "Unlikelihood on labelled answers"),
                            ("awr", "Advantage-weighted regression on labelled answers"),
                            ("conditional", "Conditional training on labelled answers"))
        for against, said, control in (
            ("all", "beats supervised training on all of them, 40% being wrong", "supervised training on all"),
            ("good", "beats leaving the wrong ones out", "supervised training on the good ones"),
        )
    ),
    LearningClaim(
        "robust", "Robust DPO beats DPO when preferences are noisy", "Chowdhury et al. 2024",
        ("robust dpo on noise", "dpo on noise"), target("robust dpo on noise", "dpo on noise"),
        better("robust DPO (label_smoothing 0.2) minus DPO on pairs of which a fifth is turned round (target)"),
    ),
    LearningClaim(
        "hpt", "HPT beats supervised training and then reinforcement", "Lv et al. 2025 (HPT)",
        ("hpt", "sft then grpo"), target("hpt", "sft then grpo"),
        better("HPT minus half of the steps by likelihood and half by GRPO, the same prompts and labels (target)"),
        "HPT draws samples in every step, its control in half of them",
    ),
    LearningClaim(
        "reft", "ReFT beats supervised training at equal labels", "Luong et al. 2024",
        ("sft then reft", "sft, short"), target("sft then reft", "sft, short"),
        better("half of the steps by likelihood and half by PPO minus all by likelihood, the same prompts (target)"),
    ),
)  # fmt: skip
