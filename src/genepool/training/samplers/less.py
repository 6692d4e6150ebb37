"""LESS: the few examples whose gradients point where those of the validation examples point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.projected_gradients import directions
from genepool.training.samplers import ExampleSampler, FirstModel, SamplerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import torch

# Adam's, as the authors' code has them; epsilon stands below the root there, and so it does here.
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8


class LessOptions(SamplerOptions):
    """Options of LESS."""

    warmup: float = Field(
        default=0.05, gt=0, le=1, description="Part of the examples that the first training uses (paper: 0.05)."
    )
    epochs: int = Field(
        default=4, ge=1, le=100, description="Rounds of these examples; after each, influence is measured (paper: 4)."
    )
    projection: int = Field(
        default=1024,
        ge=1,
        le=65536,
        description="Dimensions that gradients are projected to (ours, for processors; the paper has 8192; the time "
        "grows with it); where there are no more parameters than this, they are compared as they are.",
    )
    part: float = Field(default=0.05, gt=0, le=1, description="Part of the examples that is trained on (paper: 0.05).")


class Less(ExampleSampler):
    """Trains on the examples of the highest influence: cos(R Adam direction of the example, R gradient of validation).

    Before the first step a first training runs on a small part of the examples, and is undone. After each of its
    rounds, cosines are measured at the model and Adam's moments of that time, R a projection of random signs. They are
    averaged over the validation examples of a task, added up over the rounds, weighted by the mean learning rate of
    each, and the highest of all tasks counts. Validation examples say what is to be learned.
    """

    name = "less"
    source = "Xia et al., LESS (arXiv:2402.04333); averages over validation examples as in the authors' code"
    when = "A large mixture of which little is of use, and some validation examples of what is wanted."
    Options = LessOptions
    options: LessOptions

    def scores(self, model: FirstModel) -> np.ndarray:
        import numpy as np

        if not model.tasks:
            raise InputError(
                "less looks for examples that help with the validation examples, and there are none",
                where="sampler",
                fix="Give the task a valid.jsonl",
            )
        count = sum(self.arms.sizes)
        warm = numpy_generator(self.arms.seed, self.name, "warm-up").permutation(count)
        warm = np.sort(warm[: max(1, math.ceil(self.options.warmup * count))])
        a_round = math.ceil(len(warm) / model.batch)
        steps = a_round * self.options.epochs
        found: list[np.ndarray] = []
        weights: list[float] = []

        def pause(rates: Sequence[float]) -> None:
            found.append(self._influence(model, count))
            weights.append(sum(rates) / len(rates))

        model.train(steps, warm.tolist(), range(a_round, steps + 1, a_round), pause)
        # (rounds, examples, tasks): a task is compared with itself in all rounds before the best one counts.
        total: np.ndarray = np.average(found, axis=0, weights=weights).max(-1)
        return total

    def _influence(self, model: FirstModel, count: int) -> np.ndarray:
        """Cosines at the model as it is now, (examples, tasks)."""
        import torch

        first, second = model.moments()

        def adam(place: int) -> torch.Tensor:
            gradient = model.gradients("train", place)
            return (_FIRST * first + (1 - _FIRST) * gradient) / torch.sqrt(
                _SECOND * second + (1 - _SECOND) * gradient**2 + _EPSILON
            )

        wanted = self._directions(lambda place: model.gradients("valid", place), len(model.tasks))
        names = sorted(set(model.tasks))
        means = torch.stack(
            [wanted[[at for at, one in enumerate(model.tasks) if one == name]].mean(0) for name in names]
        )
        return (self._directions(adam, count) @ means.T).double().numpy()

    def _directions(self, vector: Callable[[int], torch.Tensor], count: int) -> torch.Tensor:
        """Vectors, projected and of length 1, (count, dimensions)."""
        return directions(vector, count, self.options.projection, seed=self.arms.seed, name=self.name)

    def picked(self) -> np.ndarray:
        """The examples that are trained on, of the highest score first."""
        import numpy as np

        assert self.values is not None
        return np.argsort(-self.values, kind="stable")[: max(1, int(self.options.part * len(self.values)))]

    def places(self, step: int, size: int) -> np.ndarray:
        return self.in_rounds(self.picked(), step, size)
