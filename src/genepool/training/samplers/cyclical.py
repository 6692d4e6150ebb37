"""Cyclical curricula: a small part of the examples, then more and more, then fewer again; easy ones oftener."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.samplers import ExampleSampler, FirstModel, SamplerOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

# Below this loss all examples are equally easy (ours): of a loss that was rounded to 0 there is no inverse.
_LEAST = 1e-6


class CyclicalOptions(SamplerOptions):
    """Options of a cyclical curriculum."""

    smallest: float = Field(default=0.25, gt=0, le=1, description="The smallest part of the examples (paper: 0.25).")
    largest: float = Field(default=1.0, gt=0, le=1, description="The largest part (paper: 1).")
    factor: float = Field(
        default=0.5, gt=0, le=0.99, description="From one part to the next it is divided, or multiplied, by this."
    )
    first_steps: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Steps of the first training, in shuffled rounds; null: as many as the training has (the paper).",
    )


class Cyclical(ExampleSampler):
    """Epochs of parts of the examples: .25, .5, 1, .5, .25, ... of them, drawn without repetition, p_i ~ 1 / loss_i.

    The losses are those of a first model, trained in shuffled rounds; it is put back afterwards. The epochs stand one
    after the other in an endless row, of which a step takes the next examples; each is shuffled.
    """

    name = "cyclical"
    source = "Kesgin and Amasyali, Cyclical Curriculum Learning (arXiv:2202.05531); sizes as in the authors' code"
    when = "Examples of one kind, some of them much harder; it costs a training before the training."
    Options = CyclicalOptions
    options: CyclicalOptions

    def __init__(self, options: Any, arms: Any) -> None:
        super().__init__(options, arms)
        count = sum(arms.sizes)
        self.lengths = [max(1, int(count * size)) for size in self.sizes()]
        self._epochs: dict[int, np.ndarray] = {}

    def check(self) -> None:
        if self.options.smallest > self.options.largest:
            raise InputError(
                f"{self.options.smallest:g} is above `largest`, {self.options.largest:g}",
                where="sampler_options.smallest",
                fix="Give a smaller one",
            )

    def sizes(self) -> list[float]:
        """The parts of one cycle: from the smallest up to the largest and down again, without the next smallest."""
        smallest, largest, factor = self.options.smallest, self.options.largest, self.options.factor
        found = [smallest]
        while found[-1] < largest:
            found.append(min(found[-1] / factor, largest))
        while (following := found[-1] * factor) > smallest and len(found) > 1:
            found.append(following)
        return found

    def scores(self, model: FirstModel) -> np.ndarray:
        found: list[np.ndarray] = []

        def pause(_: Sequence[float]) -> None:
            found.append(model.losses())

        model.train(self.options.first_steps or model.steps, None, (), pause)
        return found[-1]

    def take(self, scores: Sequence[float]) -> None:
        super().take(scores)
        self._epochs = {}

    def places(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        begin, found = step * size, []
        cycle, left = divmod(begin, sum(self.lengths))
        epoch = cycle * len(self.lengths)
        while left >= self.lengths[epoch % len(self.lengths)]:
            left -= self.lengths[epoch % len(self.lengths)]
            epoch += 1
        wanted = size
        while wanted:
            found.append(self.epoch(epoch)[left : left + wanted])
            wanted -= len(found[-1])
            left, epoch = 0, epoch + 1
        return np.concatenate(found)

    def epoch(self, number: int) -> np.ndarray:
        """The examples of one epoch in their order."""
        import numpy as np

        if number not in self._epochs:
            assert self.values is not None
            easy = 1 / np.maximum(self.values, _LEAST)
            generator = numpy_generator(self.arms.seed, self.name, number)
            length = self.lengths[number % len(self.lengths)]
            # In the order of the draws easy ones would come first.
            drawn = generator.permutation(generator.choice(len(easy), length, replace=False, p=easy / easy.sum()))
            # A step reaches from one epoch into the next, seldom further.
            self._epochs = {**dict(list(self._epochs.items())[-1:]), number: drawn}
        return self._epochs[number]
