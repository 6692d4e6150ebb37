"""Compatible demonstrations: those of others are learned from where they do not contradict a base policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError, nearest
from genepool.seeding import numpy_generator
from genepool.training.samplers import ExampleSampler, FirstModel, SamplerOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


class CompatibleOptions(SamplerOptions):
    """Options of compatible demonstrations."""

    base: str | None = Field(
        default=None, description="The task whose examples the base policy learns from; null: the first one."
    )
    members: int = Field(
        default=5, ge=2, le=100, description="Policies whose disagreement shows what is new (ours: 5)."
    )
    first_steps: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Steps of the first training of each member; null: as many as the training has.",
    )
    novelty: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="The standard deviation over the members of the chance of an answer, from which on an example is "
        "new, so that nothing is known against it (ours).",
    )
    error: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The least mean of 1 minus that chance at which an example that is not new is left out (ours).",
    )


class Compatible(ExampleSampler):
    """Learns from an example where M > 0: M = 1 if it is new to the base policy, else `1 - min(e / error, 1)`.

    The base policy is an ensemble: each member is a first training on a bootstrap of the base task's examples, and is
    undone. e is the mean over the members of 1 - p, p the chance of the example's answer (per token, the geometric
    mean); an example is new where the standard deviation of p over the members is at least `novelty`. Examples of the
    base task are always learned from. All that are learned from come in shuffled rounds. Demonstrations of policies are
    judged step by step: each is an example, an observation and the act.
    """

    name = "compatible"
    source = (
        "Gandhi et al., Eliciting Compatible Demonstrations (arXiv:2210.08073): as in the authors' code, what has a "
        "large error where the ensemble agrees is left out. Their error is that of numbers, ours that of the chance of "
        "an answer; thresholds are ours"
    )
    when = "Demonstrations of several people or habits, of which one is wanted."
    Options = CompatibleOptions
    options: CompatibleOptions
    # Others than the base's are what it chooses among.
    alone = False

    def __init__(self, options: Any, arms: Any) -> None:
        super().__init__(options, arms)
        self._picked: np.ndarray | None = None

    def check(self) -> None:
        if self.options.base is not None and self.options.base not in self.arms.names:
            raise InputError(
                f"'{self.options.base}' is no task of this training",
                where="sampler_options.base",
                fix=nearest(self.options.base, self.arms.names),
            )

    @property
    def own(self) -> range:
        """The places of the base task's examples."""
        at = 0 if self.options.base is None else self.arms.names.index(self.options.base)
        start = sum(self.arms.sizes[:at])
        return range(start, start + self.arms.sizes[at])

    def scores(self, model: FirstModel) -> np.ndarray:
        import numpy as np

        chances: list[np.ndarray] = []
        count = len(self.own)

        def pause(_: Sequence[float]) -> None:
            chances.append(np.exp(-model.losses()))

        for number in range(self.options.members):
            drawn = numpy_generator(self.arms.seed, self.name, "member", number).integers(count, size=count)
            places = [self.own[at] for at in np.unique(drawn).tolist()]
            model.train(self.options.first_steps or model.steps, places, (), pause)
        return self.measure(np.array(chances))

    def measure(self, chances: np.ndarray) -> np.ndarray:
        """M of every example, (examples,): 1 for those of the base task.

        Args:
            chances: of its answer by each member, (members, examples).
        """
        import numpy as np

        error = (1 - chances).mean(0)
        found: np.ndarray = np.where(
            chances.std(0) >= self.options.novelty, 1.0, 1 - np.minimum(error / self.options.error, 1)
        )
        found[self.own] = 1.0
        return found

    def take(self, scores: Sequence[float]) -> None:
        """Takes in M; the control shuffles it among the examples of the other tasks."""
        import numpy as np

        self.values = np.array(scores, dtype=float)
        others = np.setdiff1d(np.arange(len(self.values)), self.own)
        if self.options.permuted:
            order = numpy_generator(self.arms.seed, "permuted").permutation(len(others))
            self.values[others] = self.values[others][order]
        self._picked = np.union1d(self.own, others[self.values[others] > 0])

    def places(self, step: int, size: int) -> np.ndarray:
        assert self._picked is not None
        return self.in_rounds(self._picked, step, size)
