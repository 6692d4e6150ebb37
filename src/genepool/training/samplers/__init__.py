"""Which examples a training step takes: one file of this folder each, found by being there.

The arms of a `Sampler` are the tasks that are trained on. It says how much of the next step each arm gets, by what was
observed of the examples of the steps before; which examples of an arm these are belongs to (seed, step). The arms of an
`ExampleSampler` are single examples, which it scores once, by a first training that is undone. The state of a sampler
is the seed and what was observed, so a training that goes on, or a step that is taken again, observes the record and
goes on to the same bits.

The arms of a `parameters.ParameterSampler` are single examples too, which have numbers: it observes every step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import Field

from genepool.errors import InputError
from genepool.folder_classes import classes_by_name, of_name
from genepool.schema import Strict, validate
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.tasks.example import Example
    from genepool.training.journal import ExampleRow

#: What a sampler must be told of an example: nothing, its loss, how its samples were rewarded, either of both, what a
#: first training shows of it, or how the model answers validation examples.
SamplerNeeds = Literal["nothing", "loss", "reward", "loss or reward", "first training", "answers"]


class SamplerOptions(Strict):
    """Options of a sampler that learns from evidence."""

    page = "reference/samplers"

    permuted: bool = Field(
        default=False,
        description="The control: what was observed of tasks is shuffled among them, anew in every step; scores of "
        "examples are shuffled once.",
    )


class PlainSamplerOptions(Strict):
    """Options of a sampler that ignores evidence: none."""

    page = "reference/samplers"


@dataclass(frozen=True)
class Arms:
    """What a sampler chooses from.

    Attributes:
        names: of the tasks.
        sizes: training examples of each.
        seed: of the training.
        examples: all of them, in the order of the tasks; only samplers of parameters look at them.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    seed: int
    examples: Sequence[Example] = ()


class Sampler(ABC):
    """Says how many examples of the next step are of each arm.

    Args:
        options: its options.
        arms: the tasks.

    Class attributes:
        name: what the command line calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        needs: what it must be told.
        paths: the options that name folders.
        alone: whether one task is enough.
        Options: the model of its options.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    needs: ClassVar[SamplerNeeds] = "nothing"
    paths: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = False
    Options: ClassVar[type[Strict]] = PlainSamplerOptions

    def __init__(self, options: Strict | None, arms: Arms) -> None:
        self.options = self.Options() if options is None else options
        self.arms = arms
        self.check()

    def check(self) -> None:
        """Refuses options that do not fit the arms.

        Raises:
            InputError: they do not.
        """
        return

    @property
    def known(self) -> str:
        """What it knows beside options and record, as a digest: what `paths` name; empty where there is nothing."""
        return ""

    @abstractmethod
    def counts(self, step: int, size: int) -> np.ndarray:
        """How many examples of a step are of each arm, (arms,) integers that add up to `size`.

        Args:
            step: counted from 0; all steps before it were observed.
            size: examples in the step.
        """

    def observe(self, step: int, signals: Mapping[int, float]) -> None:
        """Takes in what a step showed.

        Args:
            step: counted from 0.
            signals: of the arms that were drawn, by number: the mean loss, or the mean absolute advantage.
        """
        return

    def drawn(self, step: int, size: int, chances: np.ndarray) -> np.ndarray:
        """Counts that are drawn without quotas: a multinomial of (seed, step)."""
        generator = numpy_generator(self.arms.seed, "sampler", self.name, step)
        found: np.ndarray = generator.multinomial(size, chances / chances.sum())
        return found

    def observe_rows(self, step: int, rows: Sequence[ExampleRow]) -> None:
        """Observes the record of a step.

        Args:
            step: counted from 0.
            rows: its examples or samples.
        """
        if self.needs == "nothing":
            found = {self.arms.names.index(row.task): 0.0 for row in rows if row.task in self.arms.names}
            self.observe(step, found)
            return
        values: dict[int, list[float]] = {}
        for arm, name in enumerate(self.arms.names):
            own = [row for row in rows if row.task == name]
            values[arm] = _losses(own) if self.needs == "loss" else absolute_advantages(own)
        signals = {arm: sum(own) / len(own) for arm, own in values.items() if own}
        if getattr(self.options, "permuted", False) and signals:
            order = numpy_generator(self.arms.seed, "permuted", step).permutation(list(signals))
            signals = {int(arm): signals[one] for arm, one in zip(order, signals, strict=True)}
        self.observe(step, signals)


class FirstModel(Protocol):
    """The model that is trained, before its first step: it may be trained on trial and asked, and is then put back."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of each validation example the name of its task."""

    @property
    def steps(self) -> int:
        """Of the training that follows."""

    @property
    def batch(self) -> int:
        """Examples of a step."""

    def train(
        self,
        steps: int,
        places: Sequence[int] | None,
        pauses: Collection[int] = (),
        pause: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        """Trains it from its beginning, as the training that follows is set, on shuffled rounds.

        Args:
            steps: how many; the learning rate falls over them.
            places: of the training examples that are used; None: all.
            pauses: after which steps `pause` is called; the first one is 1.
            pause: called with the learning rates of the steps since the pause before.
        """

    def losses(self) -> np.ndarray:
        """The mean loss over the tokens of every training example, (examples,)."""

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """What is predicted for every training example, each (examples,), as means over the tokens of its answer.

        Returns:
            The entropy in nats, and the distance from the truth, ||p - onehot||.
        """

    def gradients(self, split: Literal["train", "valid"], place: int) -> torch.Tensor:
        """The gradient of the loss of one example, nothing dropped out, in one row of float32, (parameters,)."""

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Adam's moments of the first training, each (parameters,)."""


class PlaceSampler(Sampler):
    """Says which examples the next step takes, by their places among all training examples; one task is enough."""

    alone = True

    @abstractmethod
    def places(self, step: int, size: int) -> np.ndarray:
        """Which training examples a step takes, (size,) integers.

        Args:
            step: counted from 0.
            size: examples in the step.
        """

    def counts(self, step: int, size: int) -> np.ndarray:
        """How many examples of a step are of each arm, (arms,): those of its places."""
        import numpy as np

        ends = np.cumsum(self.arms.sizes)
        return np.bincount(np.searchsorted(ends, self.places(step, size), side="right"), minlength=len(ends))


class ExampleSampler(PlaceSampler):
    """Says which examples the next step takes, by scores that every training example gets before the first step.

    Until it has them, examples come in shuffled rounds.

    Attributes:
        values: the scores, (examples,), in the order of the training examples; None until they are known.
    """

    needs = "first training"
    Options = SamplerOptions

    def __init__(self, options: Strict | None, arms: Arms) -> None:
        super().__init__(options, arms)
        self.values: np.ndarray | None = None

    @abstractmethod
    def scores(self, model: FirstModel) -> np.ndarray:
        """A score for every training example, (examples,).

        Raises:
            InputError: something that they need is not there.
        """

    def take(self, scores: Sequence[float]) -> None:
        """Takes in the scores; the control shuffles them among all examples.

        Args:
            scores: as `scores` gave them.
        """
        import numpy as np

        self.values = np.array(scores, dtype=float)
        if getattr(self.options, "permuted", False):
            order = numpy_generator(self.arms.seed, "permuted").permutation(len(self.values))
            self.values = self.values[order]

    def in_rounds(self, own: np.ndarray, step: int, size: int) -> np.ndarray:
        """The next examples of an endless row of shuffled rounds, (size,).

        Args:
            own: the examples of a round.
            step: counted from 0.
            size: examples in the step.
        """
        import numpy as np

        places = np.arange(step * size, (step + 1) * size)
        rounds = {
            number: numpy_generator(self.arms.seed, self.name, "round", int(number)).permutation(own)
            for number in np.unique(places // len(own))
        }
        return np.array([rounds[place // len(own)][place % len(own)] for place in places])

    def observe_rows(self, step: int, rows: Sequence[ExampleRow]) -> None:
        """Observes nothing: the scores stay."""
        return


def _losses(rows: Sequence[ExampleRow]) -> list[float]:
    return [row.loss for row in rows if math.isfinite(row.loss)]


def absolute_advantages(rows: Sequence[ExampleRow]) -> list[float]:
    """|A| of every sample: its reward less the mean of its prompt's, over their standard deviation; 0 where they agree.

    Args:
        rows: samples; those of one prompt have one key.
    """
    groups: dict[str, list[float]] = {}
    for row in rows:
        if (reward := row.numbers.get("reward")) is not None and math.isfinite(reward):
            groups.setdefault(row.example, []).append(reward)
    found: list[float] = []
    for rewards in groups.values():
        mean = sum(rewards) / len(rewards)
        deviation = math.sqrt(sum((one - mean) ** 2 for one in rewards) / len(rewards))
        found += [abs(one - mean) / deviation if deviation > 0 else 0.0 for one in rewards]
    return found


def samplers() -> dict[str, type[Sampler]]:
    """Every sampler by name, in alphabetical order."""
    return classes_by_name(__name__, Sampler)


def make_sampler(name: str, options: Mapping[str, object], arms: Arms, where: str = "--sampler") -> Sampler:
    """A sampler with options.

    Args:
        name: its name.
        options: those that are not the defaults.
        arms: the tasks.
        where: for errors.

    Raises:
        InputError: there is no such sampler, an option is unknown or wrong, or there is only one task to choose.
    """
    kind = of_name(samplers(), "sampler", name, where)
    if len(arms.names) < 2 and not kind.alone:
        raise InputError(
            f"{name} chooses among tasks, and there is one", where=where, fix="Name several tasks, or leave it out"
        )
    return kind(validate(kind.Options, dict(options), where), arms)
