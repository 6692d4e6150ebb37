"""MBTL: which contexts to train on, so that what is learned there transfers to all: a model of scores and of gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training.gaussian_process import fit_process
from genepool.training.parameter_space import KEY
from genepool.training.samplers.parameters import ParameterOptions, ParameterSampler

if TYPE_CHECKING:
    import numpy as np

# The last part of a context's steps, whose mean score is its performance (ours).
_JUDGED = 0.25


class MbtlOptions(ParameterOptions):
    """Options of MBTL."""

    contexts: int = Field(
        default=20, ge=2, le=1000, description="Values of the parameter, evenly spread, each of them a context (ours)."
    )
    round: int = Field(default=25, ge=1, le=10**6, description="Steps on one context (ours).")
    slope: float = Field(
        default=0.005, ge=0, le=10, description="How much a score is expected to fall from a context to the next "
        "(authors' code: 0.005 for scores from 0 to 1).",
    )  # fmt: skip
    noise: float = Field(default=0.1, gt=0, le=10, description="Standard deviation of a score (authors' code: 0.1).")
    exploration: Literal["decay", "grow", "none"] = Field(
        default="decay",
        description="The weight of the standard deviation after k contexts: 1 / (k + 1), sqrt(log(k + 1)), or 0 "
        "(authors' code has all three).",
    )


class Mbtl(ParameterSampler):
    """Trains on one context after another: max over i of mean_j (mu_i + lambda sigma_i - slope |i - j| - best_j)+.

    mu and sigma are those of a Gaussian process (a constant times RBF) on the scores of the contexts that were trained;
    best_j is what they are expected to reach on context j, score less slope |i - j| and at least 0. The first one is
    the middle one. One model goes through all contexts, where the paper trains one for each; once all were trained,
    they come again in the same order. The control shuffles the scores among the contexts.
    """

    name = "mbtl"
    source = "Cho et al., Model-Based Transfer Learning (arXiv:2408.04498); the acquisition as in the authors' code"
    when = "One number says how tasks differ, and what is learned at one value helps at those near it."
    Options = MbtlOptions

    def __init__(self, options: Any, arms: Any) -> None:
        import numpy as np

        super().__init__(options, arms)
        if len(self.space) != 1:
            raise InputError(
                f"mbtl goes along one parameter, and there are {len(self.space)} ({', '.join(self.space.names)})",
                where=KEY,
                fix="Name one of them with its ends",
            )
        spread = np.linspace(0, 1, self.options.contexts)[:, None]
        known = self.space.distinct[self.space.nearest(spread)]
        self.contexts: np.ndarray = np.unique(known)
        #: The contexts that were trained, or are, by their numbers, and the scores of those that were.
        self.trained: list[int] = [(len(self.contexts) - 1) // 2]
        self.scores: list[float] = []
        self._round: list[float] = []

    def points(self, step: int, size: int) -> np.ndarray:
        import numpy as np

        return np.full((size, 1), self.contexts[self.trained[(step // self.options.round) % len(self.trained)]])

    def observe_rows(self, step: int, rows: Any) -> None:
        # All examples of a step are of one context: the control shuffles contexts instead.
        points, values = self.evidence(rows)
        self.learn(step, points, values)

    def learn(self, step: int, points: np.ndarray, values: np.ndarray) -> None:
        self._round += [float(values.mean())] if len(values) else []
        if (step + 1) % self.options.round or len(self.scores) == len(self.contexts):
            return
        judged = self._round[-max(1, math.ceil(_JUDGED * self.options.round)) :]
        self.scores.append(sum(judged) / len(judged) if judged else 0.0)
        self._round = []
        if len(self.trained) < len(self.contexts):
            self.trained.append(self.chosen(len(self.contexts), self.trained, self._told()))

    def _told(self) -> list[float]:
        if not self.options.permuted:
            return self.scores
        order = numpy_generator(self.arms.seed, "permuted", len(self.scores)).permutation(len(self.scores))
        return [self.scores[at] for at in order]

    def chosen(self, count: int, trained: Sequence[int], scores: Sequence[float], best: Any = None) -> int:
        """The context to train next: of those that were not, the one that promises most; of equal ones the first.

        Args:
            count: of contexts.
            trained: those that were trained, in their order.
            scores: of each, on itself.
            best: what is known to be reached on each context, (contexts,); None: it is expected, by the slope.
        """
        import numpy as np

        every, own = np.arange(count), np.array(trained)
        # The kernel and its bounds are for places as far apart as contexts' numbers are.
        process = fit_process(
            own.astype(float), np.array(scores), self.options.noise, self.generator("process", len(trained))
        )
        mean, deviation = process.predict(every.astype(float))
        gaps = self.options.slope * np.abs(every[:, None] - every[None])
        if best is None:
            best = np.maximum((np.array(scores)[:, None] - gaps[own]).max(0), 0)
        hoped = mean + self.weight(len(trained)) * deviation
        promise = np.maximum(hoped[:, None] - gaps - best[None], 0).mean(1)
        promise[own] = -1
        return int(promise.argmax())

    def weight(self, trained: int) -> float:
        """Of the standard deviation, after so many contexts."""
        kind = self.options.exploration
        return {"decay": 1 / (trained + 1), "grow": math.sqrt(math.log(trained + 1)), "none": 0.0}[kind]
