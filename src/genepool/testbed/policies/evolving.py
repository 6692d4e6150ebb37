"""Policies are evolved: CMA-ES over all weights, or over the factors of a LoRA adapter.

All candidates of a generation play the same episodes, stepped together. The same seed gives the same bits. Uses torch
and pycma; `builder` evolves every model of the testbed of policies with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genepool.seeding import numpy_generator
from genepool.tasks.environments import Episode, Spaces
from genepool.tasks.models.policy import actions_of
from genepool.tasks.playing import play

# With more numbers than this only the diagonal of the covariance is learned: pycma's full one costs 22 ms a generation
# at 500 numbers, its diagonal 1.3 ms (as in `evolution/strategies/cma_es`).
_DIAGONAL_ABOVE = 100
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PolicySearch:
    """One search.

    Attributes:
        generations: how many.
        population: candidates of each.
        episodes: that each of them plays.
        sigma: standard deviation of the first candidates around the start.
        enough: the search ends when the mean of the generation's candidates reaches this return.
    """

    generations: int
    population: int
    episodes: int
    sigma: float
    enough: float


def evolve(
    network: torch.nn.Module,
    spaces: Spaces,
    start: Tensors,
    weights: Callable[[Tensors], Tensors],
    episodes: Callable[[int, int], Sequence[Episode]],
    search: PolicySearch,
    seed: int,
    name: str,
    after: Callable[[], None],
) -> dict[str, torch.Tensor]:
    """Searches numbers whose policy has a high mean return.

    Args:
        network: of the policy's shape; what it holds is no matter.
        spaces: of the policy.
        start: what is searched, by name, where the search begins.
        weights: of what is searched -> all tensors of the network; called once with a dimension for the candidates
            before the others.
        episodes: (generation, how many) -> what is played in it.
        search: the numbers of the search.
        seed, name: every draw belongs to both.
        after: called after each generation.

    Returns:
        The mean of the last generation's distribution, by name.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in start.items()}

    def unpacked(points: np.ndarray) -> dict[str, torch.Tensor]:
        """Tensors by name of some points, shape (points, ...)."""
        parts = np.split(points, np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1], axis=1)
        return {
            key: torch.from_numpy(np.ascontiguousarray(part)).float().reshape(len(points), *shapes[key])
            for key, part in zip(shapes, parts, strict=True)
        }

    first = np.concatenate([tensor.detach().double().flatten().numpy() for tensor in start.values()])
    strategy = _strategy(first, search, seed, name)
    for generation in range(search.generations):
        points = [np.asarray(point) for point in strategy.ask()]
        played = episodes(generation, search.episodes)
        found = mean_returns(network, spaces, weights(unpacked(np.stack(points))), played)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            strategy.tell(points, [-one for one in found])
        after()
        if float(np.mean(found)) >= search.enough:
            break
    return {key: tensor[0] for key, tensor in unpacked(np.asarray(strategy.mean)[None]).items()}


def mean_returns(
    network: torch.nn.Module, spaces: Spaces, weights: Tensors, episodes: Sequence[Episode]
) -> list[float]:
    """The mean return of some policies, which play the same episodes; see `returns_of`."""
    totals = returns_of(network, spaces, weights, episodes)
    return [float(total) for total in np.nan_to_num(totals, nan=-1e9).mean(1)]


def returns_of(network: torch.nn.Module, spaces: Spaces, weights: Tensors, episodes: Sequence[Episode]) -> np.ndarray:
    """The returns of some policies, which play the same episodes.

    Args:
        network: of the policies' shape.
        spaces: of the policies.
        weights: every tensor of the network, with a dimension for the policies before the others.
        episodes: what each of them plays.

    Returns:
        Shape (policies, episodes); NaN where a policy gave no action.
    """
    policies, each = len(next(iter(weights.values()))), len(episodes)

    def one(tensors: Tensors, observations: torch.Tensor) -> Any:
        return torch.func.functional_call(network, dict(tensors), (observations,))

    together = torch.func.vmap(one)

    def act(observations: np.ndarray) -> np.ndarray:
        seen = torch.from_numpy(observations).reshape(policies, each, -1)
        with torch.inference_mode():
            return actions_of(together(weights, seen).flatten(0, 1), spaces)

    played = play(act, [*episodes] * policies, policies * each)
    return np.array([one.total for one in played]).reshape(policies, each)


def _strategy(start: np.ndarray, search: PolicySearch, seed: int, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycma announces that matplotlib is missing
        import cma
    generator = numpy_generator(seed, "policies", name)
    return cma.CMAEvolutionStrategy(
        start,
        search.sigma,
        {
            "popsize": search.population,
            "CMA_diagonal": len(start) > _DIAGONAL_ABOVE,
            # NaN means "seed nothing"; every draw then comes from our own generator.
            "seed": np.nan,
            "randn": lambda *shape: generator.standard_normal(shape),
            "verbose": -9,
            "signals_filename": "",
            "maxiter": np.inf,
        },
    )
