"""LESS: the few examples whose gradients point where those of the validation examples point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.samplers import ExampleSampler, FirstModel, SamplerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import torch

# Adam's, as the authors' code has them; epsilon stands below the root there, and so it does here.
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8
# Signs of the projection that are made at once: 64 MiB of float32. Entries of the gradients that share them: 256 MiB.
_SIGNS, _TOGETHER = 2**24, 2**26


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
        import torch

        found, rows = [], []
        for place in range(count):
            rows.append(vector(place))
            if len(rows) * len(rows[0]) >= _TOGETHER or place + 1 == count:
                found.append(torch.nn.functional.normalize(self.projected(torch.stack(rows)), dim=1))
                rows = []
        return torch.cat(found)

    def projected(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows times a matrix of random signs, (rows, dimensions), which keeps their angles nearly.

        Args:
            rows: (rows, parameters).
        """
        import numpy as np
        import torch

        size, dimensions = rows.shape[1], self.options.projection
        if size <= dimensions:
            return rows
        total = torch.zeros(len(rows), dimensions)
        height = max(1, _SIGNS // dimensions)
        for block, begin in enumerate(range(0, size, height)):
            part = rows[:, begin : begin + height]
            # A bit for each sign: drawing them one by one would take longer than the product.
            generator, count = (
                numpy_generator(self.arms.seed, self.name, "projection", block),
                part.shape[1] * dimensions,
            )
            drawn = np.unpackbits(np.frombuffer(generator.bytes(-(-count // 8)), np.uint8), count=count)
            total += part @ torch.from_numpy(drawn).view(-1, dimensions).float().mul_(2).sub_(1)
        return total / math.sqrt(dimensions)

    def picked(self) -> np.ndarray:
        """The examples that are trained on, of the highest score first."""
        import numpy as np

        assert self.values is not None
        return np.argsort(-self.values, kind="stable")[: max(1, int(self.options.part * len(self.values)))]

    def places(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        own = self.picked()
        places = np.arange(step * size, (step + 1) * size)
        rounds = {
            number: numpy_generator(self.arms.seed, self.name, "round", int(number)).permutation(own)
            for number in np.unique(places // len(own))
        }
        return np.array([rounds[place // len(own)][place % len(own)] for place in places])
