"""Adapt-inf: examples are grouped by their gradients, and each group is sampled by the score that spreads it most."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import derive, numpy_generator
from genepool.training.projected_gradients import directions
from genepool.training.samplers import ExampleSampler, FirstModel, SamplerOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

# Bins of the histograms and of the stratified draw (authors' code); of standardised scores, bins end at 4 deviations.
_BINS, _DEVIATIONS = 50, 4.0
# Marks of an example: drawn, not drawn, pruned.
_DRAWN, _LEFT, _PRUNED = 1.0, 0.0, -1.0
# Rows of a matrix of cosines that are computed at once.
_ROWS = 1024


class AdaptInfOptions(SamplerOptions):
    """Options of Adapt-inf."""

    part: float = Field(
        default=0.25, gt=0, le=1, description="Part of the examples that is trained on (ours: a quarter)."
    )
    clusters: int = Field(default=10, ge=1, le=1000, description="Groups of gradients (authors' code: 10).")
    keep: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Part of the examples that stays when those most like an earlier one of their group are pruned, "
        "before any is drawn; at least `part`. 1 prunes none.",
    )
    tail: float = Field(
        default=0.05, ge=0, lt=0.5, description="Part of a group's scores at each end that is not drawn from (code)."
    )
    projection: int = Field(
        default=1024, ge=1, le=65536, description="Dimensions that gradients are projected to before they are grouped."
    )


class AdaptInf(ExampleSampler):
    """Groups of alike gradients; of each, equally many examples, spread over the score that tells its examples apart.

    All is computed once, at the model as it is before the first step, so a training that goes on with an earlier one
    (`--fork`, or a base with a skill) chooses anew from old and new tasks: that is how the paper learns pools that
    arrive one after the other.

    k-means groups the gradients, each projected and of length 1. In each group, the histograms of four scores over its
    examples are compared: loss (the logarithm of perplexity), entropy of the predictions, their distance from the truth
    (EL2N), norm of the gradient. That of the highest entropy decides. Without its ends, its range is cut into 50
    strata, and equally many examples are drawn from each; what a small stratum or group lacks, the others give. The
    paper's fifth score, how much an image helps, is not here. Where the budget of a group is below 50, there are as
    many strata as examples are drawn; the authors' code then draws too many.
    """

    name = "adapt_inf"
    source = (
        "Maharana et al., Adapt-inf (arXiv:2410.10636); draws, budgets and pruning as in the authors' code, histograms "
        "of standardised scores"
    )
    when = "More examples than there is time for, of old and new tasks, none of which shall be forgotten."
    Options = AdaptInfOptions
    options: AdaptInfOptions

    def check(self) -> None:
        if self.options.keep < self.options.part:
            raise InputError(
                f"{self.options.keep:g} is below `part`, {self.options.part:g}",
                where="sampler_options.keep",
                fix="Give a larger one",
            )

    def scores(self, model: FirstModel) -> np.ndarray:
        import numpy as np

        count = sum(self.arms.sizes)
        norms = np.zeros(count)

        def gradient(place: int) -> torch.Tensor:
            found = model.gradients("train", place)
            norms[place] = float(found.norm())
            return found

        vectors = directions(gradient, count, self.options.projection, seed=self.arms.seed, name=self.name)
        entropies, distances = model.outputs()
        known = {"loss": model.losses(), "entropy": entropies, "el2n": distances, "norm": norms}
        return self.marks(vectors.double().numpy(), known)

    def marks(self, vectors: np.ndarray, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """1 for every example that is drawn, -1 for a pruned one, 0 for others, (examples,).

        Args:
            vectors: a direction for each example, (examples, dimensions).
            scores: by name, (examples,) each.
        """
        import numpy as np

        count = len(vectors)
        belongs = self.groups(vectors)
        groups = [np.flatnonzero(belongs == at) for at in range(self.options.clusters)]
        found = np.full(count, _LEFT)
        kept = budgets([len(group) for group in groups], max(1, math.ceil(self.options.keep * count)))
        left = [group[least_alike(vectors[group])[:size]] for group, size in zip(groups, kept, strict=True)]
        for group, stays in zip(groups, left, strict=True):
            found[np.setdiff1d(group, stays)] = _PRUNED
        drawn = budgets([len(group) for group in left], max(1, int(self.options.part * count)))
        for at, (group, size) in enumerate(zip(left, drawn, strict=True)):
            if not size:
                continue
            best = max(scores, key=lambda name: histogram_entropy(scores[name][group]))
            generator = numpy_generator(self.arms.seed, self.name, "draw", at)
            found[group[stratified(scores[best][group], size, self.options.tail, generator)]] = _DRAWN
        return found

    def groups(self, vectors: np.ndarray) -> np.ndarray:
        """The group of each example, by k-means of its direction, (examples,)."""
        import numpy as np
        from scipy.cluster.vq import kmeans2

        # Of equal directions no two groups can be made.
        size = min(self.options.clusters, len(np.unique(vectors, axis=0)))
        with warnings.catch_warnings():
            # A group may lose all of its examples to others, and is then empty.
            warnings.simplefilter("ignore", UserWarning)
            seed = derive(self.arms.seed, self.name, "groups") % 2**32
            found: np.ndarray = kmeans2(vectors, size, iter=50, minit="++", seed=seed)[1]
        return found

    def picked(self) -> np.ndarray:
        """The examples that are trained on; all where none is marked."""
        import numpy as np

        assert self.values is not None
        marked = np.flatnonzero(self.values >= _DRAWN)
        return marked if len(marked) else np.arange(len(self.values))

    def places(self, step: int, size: int) -> np.ndarray:
        return self.in_rounds(self.picked(), step, size)


def budgets(sizes: Sequence[int], total: int) -> list[int]:
    """Equal parts of a budget, none above the size of its group; what a small group lacks, larger ones give.

    Args:
        sizes: of the groups.
        total: what is given away; where the groups are smaller together, as much as they have.
    """
    found, left = [0] * len(sizes), total
    order = sorted(range(len(sizes)), key=lambda at: sizes[at])
    for number, at in enumerate(order):
        found[at] = min(sizes[at], math.ceil(left / (len(order) - number)))
        left -= found[at]
    return found


def histogram_entropy(scores: np.ndarray) -> float:
    """The entropy in bits of a histogram of standardised scores; 0 where all are alike."""
    import numpy as np

    deviation = float(scores.std()) if len(scores) else 0.0
    # Of rounding errors a histogram says nothing.
    if deviation <= 1e-12 * max(1.0, float(np.abs(scores).max(initial=0.0))):
        return 0.0
    counts, _ = np.histogram((scores - scores.mean()) / deviation, _BINS, (-_DEVIATIONS, _DEVIATIONS))
    chances = counts[counts > 0] / counts.sum()
    return float(-(chances * np.log2(chances)).sum()) if len(chances) else 0.0


def stratified(scores: np.ndarray, size: int, tail: float, generator: np.random.Generator) -> np.ndarray:
    """Which examples are drawn, equally many from each stratum of the scores; fewer than `size` where the ends matter.

    Args:
        scores: of the examples of a group.
        size: how many are drawn, at most.
        tail: part of the scores at each end that is left out.
        generator: draws.
    """
    import numpy as np

    ordered = np.sort(scores)
    last = len(scores) - 1
    low, high = ordered[int(tail * len(scores))], ordered[min(last, int((1 - tail) * len(scores)))]
    inside = np.flatnonzero((scores >= low) & (scores <= high))
    strata = min(_BINS, size)
    if high <= low:
        return generator.permutation(inside)[:size]
    number = np.minimum(((high - scores[inside]) / (high - low) * strata).astype(int), strata - 1)
    found: list[np.ndarray] = []
    left = size
    # The smallest strata first, so that what they lack is known when the others give.
    order = sorted(range(strata), key=lambda at: (int((number == at).sum()), at))
    for at, stratum in enumerate(order):
        own = inside[number == stratum]
        taken = generator.permutation(own)[: math.ceil(left / (strata - at))]
        found.append(taken)
        left -= len(taken)
    return np.concatenate(found)


def least_alike(vectors: np.ndarray) -> np.ndarray:
    """The examples of a group in the order in which they stay: those first that are least like any before them.

    Args:
        vectors: directions of length 1, (examples, dimensions).
    """
    import numpy as np

    likeness = np.full(len(vectors), -np.inf)
    for begin in range(0, len(vectors), _ROWS):
        block = vectors[begin : begin + _ROWS] @ vectors[: begin + _ROWS].T
        earlier = np.arange(block.shape[1])[None, :] < (begin + np.arange(len(block)))[:, None]
        likeness[begin : begin + _ROWS] = np.where(earlier, block, -np.inf).max(1)
    return np.argsort(likeness, kind="stable")
