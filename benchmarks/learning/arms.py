"""What is measured: trainings with their settings and what they learn from, and the models they are compared with.

The learning rate of an arm is the best of `RATES` on the validation split of the target with the first seed, unless the
arm names others.
Whatever is the same for two arms of a claim is said once: steps, examples of a step and labels are those of `bed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from benchmarks.composition.cells import Cell
from benchmarks.learning.bed import FLIPPED, PROMPTS, RATES, STEPS, Data, Learned, LearningBed
from genepool.training.trainers.rollouts import RolloutTrainer

#: That of arms that are too long to be trained several times: near the default of `grpo` for this model.
LONG_RATES = (3e-4,)
#: Steps of a long training by rewards, and samples of each prompt.
LONG_STEPS, SAMPLES = 100, 8
#: Samples of a teacher for each prompt, where its answers are all that is learned from: as many as GKD's own writing
#: and the samples that it is given have tokens.
MANY = 5

#: A testbed and a learning rate -> a training.
Make = Callable[[LearningBed, float], Learned]


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: in tables and on the command line.
        words: what it is, for the page.
        make: see `Make`.
        rates: learning rates that are tried; one alone is not chosen.
    """

    name: str
    words: str
    make: Make
    rates: tuple[float, ...] = RATES

    def measure(self, bed: LearningBed, rates: Sequence[float] = ()) -> Cell:
        """Trains at every rate, and asks the best model all tasks.

        Args:
            bed: the testbed.
            rates: these instead of the arm's own.
        """
        began = time.process_time()
        made = [(rate, self.make(bed, rate)) for rate in rates or self.rates]
        scored = [(bed.score(one.model) if len(made) > 1 else 0.0, rate, one) for rate, one in made]
        _, rate, best = max(scored, key=lambda entry: entry[0])
        seconds = time.process_time() - began
        said = {"rate": rate, "steps": best.steps, "generated": best.generated, "labels": best.labels}
        if best.reward is not None:
            said["reward"] = round(best.reward, 4)
        return Cell(bed.ask(bed.source(best.model)), seconds, said)


def known(name: str, words: str, model: Callable[[LearningBed], Learned]) -> Arm:
    """A model that is trained once for all arms, or not at all."""
    return Arm(name, words, lambda bed, _: model(bed), (0.0,))


def trained(
    name: str,
    words: str,
    data: Callable[[LearningBed], Data],
    *,
    base: Callable[[LearningBed], Learned] | None = None,
    teacher: Callable[[LearningBed], str] | None = None,
    rates: Sequence[float] = RATES,
    **settings: Any,
) -> Arm:
    """A training.

    Args:
        name, words: see `Arm`.
        data: what it learns from.
        base: what it begins as; the testbed's base when None. Its price is not counted: both arms of a claim pay it.
        teacher: the name of its teacher.
        rates: see `Arm`.
        settings: keys of a training file.
    """

    def make(bed: LearningBed, rate: float) -> Learned:
        more = {} if teacher is None else {"teacher": teacher(bed)}
        begun = "" if base is None else base(bed).model
        return bed.learn(data(bed), base=begun, learning_rate=rate, **more, **settings)

    return Arm(name, words, make, tuple(rates))


def _sft_then_dpo(bed: LearningBed, rate: float) -> Learned:
    """Half of the steps each; the supervised half is what is best by itself."""
    first = bed.half_way
    second = bed.learn(bed.preferences, base=first.model, learning_rate=rate, steps=STEPS // 2, objective="dpo")
    return second.after(first)


def _whatever_the_majority(bed: LearningBed, rate: float) -> Learned:
    """genepool refuses this where the majority is mostly wrong; the refusal is switched off to see what it prevents."""
    with patch.object(RolloutTrainer, "before_first_step", lambda self: None):
        return bed.learn(bed.labelled, base=bed.half.model, learning_rate=rate, **_rewarded("majority"))


def _rewarded(reward: str | Mapping[str, float] = "metric", steps: int = STEPS, **options: Any) -> dict[str, Any]:
    return {
        "objective": "grpo",
        "steps": steps,
        "batch": PROMPTS,
        "options": {"samples": SAMPLES, "reward": reward, **options},
    }


def _sft_then(objective: str) -> Make:
    """Half of the steps supervised, at the rate that is best for this by itself, then half by rewards."""

    def make(bed: LearningBed, rate: float) -> Learned:
        first = bed.half_way_of_prompts
        settings = {**_rewarded(steps=STEPS // 2), "objective": objective, "options": {"samples": SAMPLES}}
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
               **_rewarded()),
    Arm("majority, half-known", "the same with the majority as the reward", _whatever_the_majority, LONG_RATES),
    trained("grpo", f"GRPO with the task's metric, {LONG_STEPS} steps", lambda bed: bed.labelled, rates=LONG_RATES,
            **_rewarded(steps=LONG_STEPS)),
    trained("grpo, kl", "the same with kl=0.1", lambda bed: bed.labelled, rates=LONG_RATES,
            **_rewarded(steps=LONG_STEPS, kl=0.1)),
    trained("hpt", "HPT: right answers where no sample is right, else a policy gradient", lambda bed: bed.labelled,
            rates=LONG_RATES, **{**_rewarded(), "objective": "hpt", "options": {"samples": SAMPLES}}),
    Arm("sft then grpo", "half of the steps supervised, then half by GRPO on the metric", _sft_then("grpo"),
        LONG_RATES),
    Arm("sft then reft", "half of the steps supervised, then half by PPO as ReFT does", _sft_then("reft"), LONG_RATES),
    trained("sft, short", "supervised, as many steps of as many prompts as HPT and what follows half of the steps",
            lambda bed: bed.labelled, batch=PROMPTS),
    trained("sft, long", "supervised, as many steps of as many prompts", lambda bed: bed.labelled,
            steps=LONG_STEPS, batch=PROMPTS),
)  # fmt: skip
