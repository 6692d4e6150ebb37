"""What an arm is: a training with its settings and what it learns from, or a model that trainings are compared with.

The learning rate of an arm is the best of its rates on the validation split with the first seed; the other seeds have
the same. Whatever is the same for two arms of a claim is said once: steps, examples of a step and labels are those of
`bed`. The arms themselves stand in `families`, each beside the claims that are made of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.composition.cells import Cell
from benchmarks.learning.bed import PROMPTS, RATES, STEPS, TARGET, Data, Learned, LearningBed

#: That of arms that are too long to be trained several times: near the default of `grpo` for this model.
LONG_RATES = (3e-4,)
#: Steps of a long training by rewards, and samples of each prompt.
LONG_STEPS, SAMPLES = 100, 8

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
        judged: the tasks whose validation splits choose the rate, each counting the same.
        bare: its tasks and models are all its own, so that no testbed has to be built.
    """

    name: str
    words: str
    make: Make
    rates: tuple[float, ...] = RATES
    judged: tuple[str, ...] = (TARGET,)
    bare: bool = False

    def measure(self, bed: LearningBed, rates: Sequence[float] = ()) -> Cell:
        """Trains at every rate, and asks the best model all tasks.

        Args:
            bed: the testbed.
            rates: these instead of the arm's own.
        """
        began = time.process_time()
        made = [(rate, self.make(bed, rate)) for rate in rates or self.rates]
        scored = [(bed.score(one.model, self.judged) if len(made) > 1 else 0.0, rate, one) for rate, one in made]
        _, rate, best = max(scored, key=lambda entry: entry[0])
        seconds = time.process_time() - began
        said: dict[str, Any] = {"rate": rate, "steps": best.steps, "generated": best.generated, "labels": best.labels}
        if best.reward is not None:
            said["reward"] = round(best.reward, 4)
        if best.numbers:
            said["numbers"] = {name: round(float(value), 5) for name, value in best.numbers.items()}
        asked = bed.ask(bed.source(best.model)) if best.model else {}
        return Cell({**asked, **best.marks}, seconds, said)


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


def rewarded(reward: str | Mapping[str, Any] = "metric", steps: int = STEPS, **options: Any) -> dict[str, Any]:
    """Keys of a training file for GRPO on a reward, with `options` of the objective."""
    return {
        "objective": "grpo",
        "steps": steps,
        "batch": PROMPTS,
        "options": {"samples": SAMPLES, "reward": reward, **options},
    }
