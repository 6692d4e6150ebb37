"""A policy that copies Gymnasium's own rule for its lander: where a search begins that would find nothing from random.

The network is asked to do what the rule does, first where the rule flies and then where it flies itself (DAgger, Ross,
Gordon and Bagnell 2011). The same seed gives the same bits. `builder` begins the base of landers with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from genepool.seeding import torch_generator
from genepool.tasks.environments import Episode, Spaces
from genepool.tasks.models.policy import actions_of
from genepool.tasks.playing import play

if TYPE_CHECKING:
    from genepool.testbed.policies.builder import Cloning


def copied(
    network: torch.nn.Module,
    spaces: Spaces,
    start: Mapping[str, torch.Tensor],
    episodes: Callable[[int, int], Sequence[Episode]],
    how: Cloning,
    seed: int,
) -> dict[str, torch.Tensor]:
    """The tensors of a network that does what the rule does.

    Args:
        network: of the policy's shape; it is changed.
        spaces: of the policy.
        start: every tensor, where the copy begins.
        episodes: (round, how many) -> what is played in it.
        how: the numbers.
        seed: of every draw.
    """
    network.load_state_dict(dict(start))
    seen: list[np.ndarray] = []
    optimizer = torch.optim.Adam(network.parameters(), lr=how.learning_rate)

    def own(observations: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return actions_of(network(torch.from_numpy(observations)), spaces)

    for number in range(how.rounds):
        played = play(own if number else rule, episodes(number, how.episodes), how.episodes, keep=True)
        seen += [state for one in played for state in one.seen]
        states = np.stack(seen)
        inputs, answers = torch.from_numpy(states), torch.from_numpy(rule(states)).long()
        generator = torch_generator(seed, "policies copy", number)
        for _ in range(how.steps):
            rows = torch.randint(len(inputs), (how.batch,), generator=generator)
            optimizer.zero_grad()
            loss = cross_entropy(network(inputs[rows]), answers[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def rule(observations: np.ndarray) -> np.ndarray:
    """What Gymnasium's rule does at each observation of a lander, shape (rows, 8) -> (rows,)."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    # All that the rule asks of a lander is whether its engines are switched or throttled.
    lander = SimpleNamespace(unwrapped=SimpleNamespace(continuous=False))
    return np.array([float(heuristic(lander, row)) for row in observations.astype(np.float64)])
