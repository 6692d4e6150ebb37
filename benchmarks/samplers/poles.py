"""Policies that balance poles of ten lengths, each trained on one length and asked on all: what MBTL chooses among."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genepool.seeding import derive, numpy_generator
from genepool.tasks.environments import Episode
from genepool.tasks.example import Example
from genepool.tasks.playing import play
from genepool.training.samplers import Arms, make_sampler
from genepool.training.samplers.mbtl import Mbtl

#: Lengths, as half of the pole in metres; steps of an episode.
LENGTHS = tuple(float(one) for one in np.geomspace(0.05, 20, 10).round(4))
_STEPS = 200
# Of the search for a linear policy: rounds, policies of a round, those that are kept, episodes of each.
_ROUNDS, _MANY, _KEPT, _TRIES = 8, 12, 3, 2
# Episodes by which a policy is asked on each length.
_ASKED = 5
#: How much a score is expected to fall from a length to the next: ten times the authors' slope for 100 contexts.
SLOPE = 0.05
#: Contexts that are trained, at most; regret is the mean over one to so many.
BUDGET = 5


def transfer(seed: int) -> np.ndarray:
    """Scores from 0 to 1 of the policy of each length on each, (trained on, asked on)."""
    policies = [_trained(at, seed) for at in range(len(LENGTHS))]
    return np.array([[_score(one, at, seed, "asked", _ASKED) for at in range(len(LENGTHS))] for one in policies])


def _trained(at: int, seed: int) -> np.ndarray:
    """A linear policy by the cross-entropy method."""
    generator = numpy_generator(seed, "poles", at)
    mean, deviation = np.zeros(4), np.ones(4)
    for turn in range(_ROUNDS):
        tried = mean + deviation * generator.standard_normal((_MANY, 4))
        scores = [_score(one, at, seed, f"trained {turn}", _TRIES) for one in tried]
        best = tried[np.argsort(scores, kind="stable")[-_KEPT:]]
        mean, deviation = best.mean(0), best.std(0) + 0.05
    return mean


def _score(policy: np.ndarray, at: int, seed: int, name: str, count: int) -> float:
    config = (("length", LENGTHS[at]), ("steps", float(_STEPS)))
    episodes = [Episode("cart_pole", config, derive(seed, "poles", name, at, one) % 2**32) for one in range(count)]
    played = play(lambda seen: (seen @ policy > 0).astype(int), episodes, count)
    return sum(one.total for one in played) / (count * _STEPS)


@dataclass(frozen=True)
class Replayed:
    """A strategy replayed on known transfer: the contexts in their order."""

    order: tuple[int, ...]

    def regret(self, scores: np.ndarray) -> float:
        """The mean over one to five contexts of what all contexts together reach and the trained ones do not."""
        reached = [scores[list(self.order[:count])].max(0).mean() for count in range(1, BUDGET + 1)]
        return float(scores.max(0).mean() - np.mean(reached))


def by_mbtl(scores: np.ndarray, seed: int, *, permuted: bool) -> Replayed:
    """The order of MBTL, which sees what every trained policy does on all contexts, as in the authors' code."""
    count = len(scores)
    examples = [Example(str(at), str(at), ("",), tags=(f"context={at}",)) for at in range(count)]
    sampler = make_sampler("mbtl", {"slope": SLOPE, "contexts": count}, Arms(("poles",), (count,), seed, examples))
    assert isinstance(sampler, Mbtl)
    order = [(count - 1) // 2]
    while len(order) < BUDGET:
        own, best = [float(scores[at, at]) for at in order], scores[order].max(0)
        if permuted:
            generator = numpy_generator(seed, "permuted", len(order))
            own, best = generator.permutation(own).tolist(), generator.permutation(best)
        order.append(sampler.chosen(count, order, own, best))
    return Replayed(tuple(order))


def at_random(seed: int, number: int) -> Replayed:
    """Any order."""
    return Replayed(tuple(numpy_generator(seed, "any order", number).permutation(len(LENGTHS)).tolist()))


def regret_of_equal_distances(scores: np.ndarray) -> float:
    """The same mean where so many contexts are trained as lie at equal distances, from the middle of each part."""
    count = len(scores)
    reached = [
        scores[[int((part + 0.5) * count / budget) for part in range(budget)]].max(0).mean()
        for budget in range(1, BUDGET + 1)
    ]
    return float(scores.max(0).mean() - np.mean(reached))
