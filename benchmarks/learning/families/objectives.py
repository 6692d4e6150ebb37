"""The objectives: preferences, forgetting, labels, teachers, versions, rewards; against plain supervised training."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from benchmarks.claims.verdict import better, better_at_no_cost, failing
from benchmarks.learning.arm import LONG_RATES, LONG_STEPS, SAMPLES, Arm, Make, known, rewarded, trained
from benchmarks.learning.bed import FLIPPED, PROMPTS, STEPS, Learned, LearningBed
from benchmarks.learning.claim import (
    LearningClaim,
    complement,
    fewer_flips,
    forgotten,
    gains,
    half_the_losses,
    keeping,
    less,
    negative_flips,
    target,
)
from genepool.training.trainers.rollouts import RolloutTrainer

#: Samples of a teacher for each prompt, where its answers are all that is learned from: as many as GKD's own writing
#: and the samples that it is given have tokens.
MANY = 5


def _sft_then_dpo(bed: LearningBed, rate: float) -> Learned:
    """Half of the steps each; the supervised half is what is best by itself."""
    first = bed.half_way
    second = bed.learn(bed.preferences, base=first.model, learning_rate=rate, steps=STEPS // 2, objective="dpo")
    return second.after(first)


def _whatever_the_majority(bed: LearningBed, rate: float) -> Learned:
    """genepool refuses this where the majority is mostly wrong; the refusal is switched off to see what it prevents."""
    with patch.object(RolloutTrainer, "before_first_step", lambda self: None):
        return bed.learn(bed.labelled, base=bed.half.model, learning_rate=rate, **rewarded("majority"))


def _sft_then(objective: str) -> Make:
    """Half of the steps supervised, at the rate that is best for this by itself, then half by rewards."""

    def make(bed: LearningBed, rate: float) -> Learned:
        first = bed.half_way_of_prompts
        settings = {**rewarded(steps=STEPS // 2), "objective": objective, "options": {"samples": SAMPLES}}
        second = bed.learn(bed.labelled, base=first.model, learning_rate=rate, **settings)
        return second.after(first)

    return make


def _specialist(bed: LearningBed) -> str:
    return str(bed.bed.full["reverse"])


def _base(bed: LearningBed) -> Learned:
    return Learned(bed.base_name)


_HALF, _LESS = (lambda bed: bed.half), (lambda bed: bed.less)


def _from_half(name: str, words: str, **settings: Any) -> Arm:
    return trained(name, words, lambda bed: bed.labelled, base=_HALF, **settings)


ARMS = (
    known("base", "the testbed's base", _base),
    known("half-known", "the base after a few supervised steps: it knows half of the skill", _HALF),
    known("less known", "the same with other examples and fewer steps", _LESS),
    known("specialist", "the testbed's own specialist, the teacher of the distillations",
          lambda bed: Learned(_specialist(bed))),
    # Preferences.
    trained("sft on chosen", "supervised, on the chosen answers of the pairs", lambda bed: bed.chosen),
    trained("dpo", "DPO on the pairs", lambda bed: bed.preferences, objective="dpo"),
    Arm("sft then dpo", "half of the steps supervised, then half by DPO, on the same pairs", _sft_then_dpo),
    # Forgetting.
    trained("sft", "supervised, on right answers", lambda bed: bed.labelled),
    trained("lwf", "learning without forgetting, on the same answers", lambda bed: bed.labelled, objective="lwf"),
    # Labels.
    trained("sft on all", "supervised, on all of the labelled answers", lambda bed: bed.marked_all),
    trained("sft on good", "supervised, on the good ones", lambda bed: bed.marked_good),
    trained("unlikelihood", "unlikelihood, on all with their labels", lambda bed: bed.marked,
            objective="unlikelihood"),
    trained("awr", "advantage-weighted regression, on all with their labels", lambda bed: bed.marked,
            objective="awr"),
    trained("conditional", "conditional training, on all with their labels; asked with the good prefix",
            lambda bed: bed.marked, objective="conditional"),
    # Preferences of which some are wrong.
    trained("dpo on noise", "DPO on the pairs, a fifth of which is turned round", lambda bed: bed.noisy_preferences,
            objective="dpo"),
    trained("robust dpo on noise", "its robust form, told that it is a fifth", lambda bed: bed.noisy_preferences,
            objective="dpo", options={"label_smoothing": FLIPPED}),
    # Teachers.
    trained("sft on samples", "supervised, on five samples of the specialist for each prompt",
            lambda bed: bed.samples_of(_specialist(bed), MANY)),
    trained("distance on samples", "the specialist's predictions on the same samples",
            lambda bed: bed.samples_of(_specialist(bed), MANY), teacher=_specialist, objective="distance"),
    trained("gkd", "GKD: one sample of the specialist for each prompt, and half of the answers its own",
            lambda bed: bed.samples_of(_specialist(bed), 1), teacher=_specialist, objective="gkd"),
    _from_half("any_to_any, weaker teacher", "the half-known model, taught by the one that knows less",
               teacher=lambda bed: bed.less.model, objective="any_to_any"),
    _from_half("plain KL, weaker teacher", "the same by the divergence from all predictions of the teacher",
               teacher=lambda bed: bed.less.model, objective="distance"),
    _from_half("any_to_any, specialist", "the half-known model, taught by the specialist",
               teacher=_specialist, objective="any_to_any"),
    _from_half("plain KL, specialist", "the same by the divergence from all predictions of the teacher",
               teacher=_specialist, objective="distance"),
    # Versions.
    known("new version", "the base, trained on other examples than the half-known model, its old version",
          lambda bed: bed.new),
    trained("new version, trained on", "the new version after more supervised steps", lambda bed: bed.labelled,
            base=lambda bed: bed.new),
    trained("muscle", "the new version after as many steps of MUSCLE, the half-known model being the old one",
            lambda bed: bed.labelled, base=lambda bed: bed.new, teacher=lambda bed: bed.half.model,
            objective="muscle"),
    # Rewards.
    _from_half("metric, half-known", "GRPO with the task's metric, from the half-known model", rates=LONG_RATES,
               **rewarded()),
    Arm("majority, half-known", "the same with the majority as the reward", _whatever_the_majority, LONG_RATES),
    trained("grpo", f"GRPO with the task's metric, {LONG_STEPS} steps", lambda bed: bed.labelled, rates=LONG_RATES,
            **rewarded(steps=LONG_STEPS)),
    trained("grpo, kl", "the same with kl=0.1", lambda bed: bed.labelled, rates=LONG_RATES,
            **rewarded(steps=LONG_STEPS, kl=0.1)),
    trained("hpt", "HPT: right answers where no sample is right, else a policy gradient", lambda bed: bed.labelled,
            rates=LONG_RATES, **{**rewarded(), "objective": "hpt", "options": {"samples": SAMPLES}}),
    Arm("sft then grpo", "half of the steps supervised, then half by GRPO on the metric", _sft_then("grpo"),
        LONG_RATES),
    Arm("sft then reft", "half of the steps supervised, then half by PPO as ReFT does", _sft_then("reft"), LONG_RATES),
    trained("sft, short", "supervised, as many steps of as many prompts as HPT and what follows half of the steps",
            lambda bed: bed.labelled, batch=PROMPTS),
    trained("sft, long", "supervised, as many steps of as many prompts", lambda bed: bed.labelled,
            steps=LONG_STEPS, batch=PROMPTS),
)  # fmt: skip

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
        fewer_flips(
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
