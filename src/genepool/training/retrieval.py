"""Pools of adapters that are retrieved by what a prompt says: a key each, and a few near ones answer together.

Keys stand still. A state and a key are compared part by part; the nearest keys' adapters are added up, each by its
share of their nearness. Every prompt is compared by itself. The learner and the composer `slm` use it. Uses torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from genepool.errors import InputError
from genepool.seeding import torch_generator

# More rounds of k-means than it needs on the states of a task.
_ROUNDS = 50


def check_width(states: torch.Tensor, width: int, reader: str) -> None:
    """Refuses states of another width than what reads them was made for, as in a file that was altered.

    Raises:
        InputError: they have another one.
    """
    if states.shape[-1] != width:
        raise InputError(
            f"reads {width} numbers, and the states of its base have {states.shape[-1]}",
            where=reader,
            fix="Compose it again",
        )


class GroupedKeys:
    """Keys that are compared with states part by part.

    Args:
        keys: shape (keys, width).
        groups: parts that both are cut into, as equal as can be; fewer where the width is less.
        chosen: keys that answer a state, at most.
    """

    def __init__(self, keys: torch.Tensor, groups: int, chosen: int) -> None:
        self.keys, self._chosen = keys, min(chosen, len(keys))
        self._groups = min(groups, keys.shape[1])

    def cosines(self, states: torch.Tensor) -> torch.Tensor:
        """The mean over the parts of the cosine of each state with each key, shape (rows, keys)."""
        check_width(states, self.keys.shape[1], "the pool")
        parts = zip(
            torch.tensor_split(states, self._groups, -1), torch.tensor_split(self.keys, self._groups, -1), strict=True
        )
        found = [
            torch.nn.functional.normalize(state, dim=-1) @ torch.nn.functional.normalize(key, dim=-1).T
            for state, key in parts
        ]
        return torch.stack(found).mean(0)

    def weights(self, states: torch.Tensor) -> torch.Tensor:
        """What each key's adapter weighs, shape (rows, keys): the nearest ones, by their shares of the cosines.

        Cosines below 0 count as 0. Where all of the nearest do, they weigh the same.
        """
        near, places = self.cosines(states).topk(self._chosen, dim=-1)
        near = near.clamp_min(0)
        total = near.sum(-1, keepdim=True)
        shares = torch.where(total > 0, near / total.clamp_min(torch.finfo(near.dtype).tiny), 1 / self._chosen)
        return torch.zeros(len(states), len(self.keys)).to(states).scatter(1, places, shares.to(states))


class GrownPool(Mapping[str, torch.Tensor]):
    """The tensors of a pool of which the last adapters alone are trained.

    Args:
        before: of the adapters before, by name; they stand still.
        last: of the last ones, by name; what moves them moves the pool.
    """

    def __init__(self, before: Mapping[str, torch.Tensor], last: Mapping[str, torch.Tensor]) -> None:
        self._before, self._last = before, last

    def __getitem__(self, name: str) -> torch.Tensor:
        known = self._before.get(name)
        return self._last[name] if known is None else torch.cat([known, self._last[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)


def means_of_clusters(states: torch.Tensor, count: int) -> torch.Tensor:
    """The means of clusters of states, by k-means, shape (count, width).

    It begins with the state that is nearest to the mean of all, then always takes the one that is farthest from those
    it has, so nothing is drawn. A cluster that loses all of its states keeps its mean.

    Args:
        states: shape (rows, width), at least as many rows as clusters.
        count: of the clusters.
    """
    points = states.double()
    chosen = [int((points - points.mean(0)).square().sum(1).argmin())]
    while len(chosen) < count:
        apart = torch.cdist(points, points[chosen]).min(1).values
        chosen.append(int(apart.argmax()))
    means, owners = points[chosen], None
    for _ in range(_ROUNDS):
        now = torch.cdist(points, means).argmin(1)
        if owners is not None and torch.equal(now, owners):
            break
        owners = now
        means = torch.stack(
            [points[now == at].mean(0) if bool((now == at).any()) else means[at] for at in range(count)]
        )
    return means.float()


def orthogonal_keys(count: int, width: int, groups: int, seed: int, number: int) -> torch.Tensor:
    """Keys whose parts are drawn at right angles to each other, shape (count, width).

    Args:
        count: of the keys.
        width: of a state.
        groups: parts, as for `GroupedKeys`; keys beyond the width of a part begin a new set.
        seed: of the draw.
        number: of the task, which has a draw of its own.
    """
    parts = []
    for group, part in enumerate(torch.tensor_split(torch.zeros(width), min(groups, width))):
        generator = torch_generator(seed, "keys", number, group)
        sets = []
        for start in range(0, count, len(part)):
            drawn = torch.randn(len(part), len(part), generator=generator)
            sets.append(torch.linalg.qr(drawn)[0][: min(len(part), count - start)])
        parts.append(torch.cat(sets))
    return torch.cat(parts, 1)
