"""Which examples a training step takes: one file of this folder each, found by being there.

The arms are the tasks that are trained on. A sampler says how much of the next step each arm gets, by what was observed
of the examples of the steps before; which examples of an arm these are belongs to (seed, step). Its state is the seed
and what was observed, so a training that goes on, or a step that is taken again, observes the record and goes on to the
same bits. Uses no model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from genepool.errors import InputError, nearest
from genepool.folder_classes import classes_of
from genepool.schema import Strict, validate
from genepool.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np

    from genepool.training.journal import ExampleRow

#: What a sampler must be told of an example: nothing, its loss, or how its samples were rewarded.
SamplerNeeds = Literal["nothing", "loss", "reward"]


class SamplerOptions(Strict):
    """Options of a sampler that learns from evidence."""

    page = "reference/samplers"

    permuted: bool = Field(
        default=False,
        description="The control: what was observed of the arms is shuffled among them, anew in every step.",
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
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    seed: int


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
        Options: the model of its options.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    needs: ClassVar[SamplerNeeds] = "nothing"
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
    return {kind.name: kind for kind in sorted(classes_of(__name__, Sampler), key=lambda kind: kind.name)}


def make_sampler(name: str, options: Mapping[str, object], arms: Arms, where: str = "--sampler") -> Sampler:
    """A sampler with options.

    Args:
        name: its name.
        options: those that are not the defaults.
        arms: the tasks.
        where: for errors.

    Raises:
        InputError: there is no such sampler, an option is unknown or wrong, or there is only one arm.
    """
    known = samplers()
    if name not in known:
        raise InputError(f"there is no sampler '{name}'", where=where, fix=nearest(name, known))
    if len(arms.names) < 2:
        raise InputError(
            f"{name} chooses among tasks, and there is one", where=where, fix="Name several tasks, or leave it out"
        )
    return known[name](validate(known[name].Options, dict(options), where), arms)
