"""The tasks of the testbed of policies: worlds that differ in one number, and the episodes of each split.

Plain data, without Gymnasium and torch. `builder` evolves a specialist for each, and writes the episodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genepool.errors import InputError
from genepool.seeding import derive, numpy_generator
from genepool.tasks.environments import Episode, environments, episode_of
from genepool.testbed.choosing import chosen
from genepool.testbed.data import GENERIC, SPLITS, Split

# Episodes of each split: a quarter of them in a tiny testbed.
COUNTS: dict[Split, int] = {"train": 64, "valid": 32, "test": 100}
TINY_COUNTS: dict[Split, int] = {"train": 24, "valid": 8, "test": 24}


@dataclass(frozen=True)
class PolicyWorld:
    """One task: an environment whose episodes differ in their start.

    Attributes:
        name: what the user calls it, and the name of its folder.
        does: one line for people.
        environment: its name.
        config: what is set of it.
        between: a setting that each episode draws anew, with the two numbers between which it lies; none where empty.
    """

    name: str
    does: str
    environment: str
    config: Mapping[str, float] = field(default_factory=dict)
    between: tuple[str, float, float] | None = None

    def lines(self, split: str, count: int, steps: int) -> list[dict[str, object]]:
        """The episodes of a split, as lines of its file; the same whatever the seed of a build."""
        found: list[dict[str, object]] = []
        for at in range(count):
            config: dict[str, float] = {**self.config, "steps": steps}
            if self.between is not None:
                key, low, high = self.between
                drawn = numpy_generator(0, "policies", self.name, split, at).uniform(np.log(low), np.log(high))
                config[key] = round(float(np.exp(drawn)), 4)
            seed = derive(0, "policies", self.name, split, at) % 2**31
            name = f"{self.name}-{split}-{at:04d}"
            found.append({"id": name, "environment": self.environment, "config": config, "seed": seed})
        return found

    def episodes(self, split: str, count: int, steps: int) -> list[Episode]:
        """The same as episodes."""
        return [episode_of(line, self.name) for line in self.lines(split, count, steps)]

    def write(self, folder: Path, counts: Mapping[Split, int], steps: int) -> None:
        """Writes the task's folder, which exists."""
        for split in SPLITS:
            rows = [json.dumps(line) + "\n" for line in self.lines(split, counts[split], steps)]
            (folder / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")
        low, high = RETURNS[self.environment](steps)
        text = f"metric: episode_return\nreturns: [{low:g}, {high:g}]\n"
        (folder / "task.yaml").write_text(text, encoding="utf-8")


# The least and the largest return of an environment, by the number of steps.
RETURNS = {"cart_pole": lambda steps: (0.0, float(steps))}

# Far enough apart that what balances the shortest lets the longest fall, and the other way round.
_POLES = (("short", 0.03), ("long", 2.0), ("very_long", 8.0), ("longest", 20.0))
WORLDS: dict[str, PolicyWorld] = {
    name: PolicyWorld(name, f"a pole of {2 * half:g} m", "cart_pole", {"length": half}) for name, half in _POLES
}
#: Gymnasium's own world: what the base knows, and no specialist is for.
AS_IT_IS = PolicyWorld(GENERIC, "a pole of 1 m", "cart_pole")
#: Poles that no specialist saw.
BETWEEN = PolicyWorld("between", "poles of other lengths", "cart_pole", between=("length", 0.03, 20.0))
DEFAULT_WORLDS = tuple(WORLDS)


def choose(names: Sequence[str]) -> tuple[PolicyWorld, ...]:
    """The tasks called `names`, in that order.

    Raises:
        InputError: a name is unknown or given twice, or there is none; or Gymnasium is not installed.
    """
    worlds = chosen(names, WORLDS, "policies")
    for name in {world.environment for world in worlds}:
        kind = environments()[name]
        try:
            kind.make({key: one.default for key, one in kind.settings.items()}, "--bed")
        except InputError as error:
            raise InputError(error.what, where="--bed", fix=error.fix) from None
    return worlds
