"""The tasks of the testbed of policies: worlds and rewards of one environment, and the episodes of each split.

Plain data, without Gymnasium and torch. `builder` evolves a specialist for each, and writes the episodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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

    @property
    def family(self) -> PolicyFamily:
        """The tasks of its environment."""
        return FAMILIES[self.environment]

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
        low, high = self.family.returns(steps)
        text = f"metric: episode_return\nreturns: [{low:g}, {high:g}]\n"
        text += "clip: true\n" if self.family.clip else ""
        (folder / "task.yaml").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class PolicyFamily:
    """The tasks of one environment: a testbed has those of one.

    Attributes:
        worlds: those that specialists are for.
        as_it_is: Gymnasium's own: what the base knows, and no specialist is for.
        between: what no specialist saw.
        scales: what each number of an observation is divided by, so that it is about 1.
        returns: the number of steps -> the returns that score 0 and 1.
        clip: whether there are returns beyond these, which score the same.
        copies: whether the base begins as a copy of Gymnasium's own rule, since a search of a few generations would
            find nothing.
    """

    worlds: tuple[PolicyWorld, ...]
    as_it_is: PolicyWorld
    between: PolicyWorld
    scales: tuple[float, ...]
    returns: Callable[[int], tuple[float, float]]
    clip: bool = False
    copies: bool = False

    def score(self, total: float, steps: int) -> float:
        """A mean return on the scale of the scores; beyond 0 and 1 where returns are."""
        low, high = self.returns(steps)
        return (total - low) / (high - low)


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
#: Landers of one world with two rewards.
LANDERS: dict[str, PolicyWorld] = {
    world.name: world
    for world in (
        PolicyWorld("thrifty", "a landing whose fuel costs ten times as much", "lunar_lander", {"fuel": 10.0}),
        PolicyWorld("swift", "a landing of which every step costs half a point", "lunar_lander", {"time": 0.5}),
    )
}

FAMILIES: dict[str, PolicyFamily] = {
    "cart_pole": PolicyFamily(
        worlds=tuple(WORLDS.values()),
        as_it_is=AS_IT_IS,
        between=BETWEEN,
        # Metres, metres a second, radians, radians a second.
        scales=(1.0, 1.0, 0.1, 1.0),
        returns=lambda steps: (0.0, float(steps)),
    ),
    "lunar_lander": PolicyFamily(
        worlds=tuple(LANDERS.values()),
        as_it_is=PolicyWorld(GENERIC, "a landing as Gymnasium rewards it", "lunar_lander"),
        between=PolicyWorld("between", "halfway to either price", "lunar_lander", {"fuel": 5.5, "time": 0.25}),
        # Places and speeds in halves of the picture, radians, radians in 0.4 s, and whether each leg stands.
        scales=(1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0),
        # Gymnasium calls 200 solved; what flies away for long has returns without an end.
        returns=lambda _: (-600.0, 300.0),
        clip=True,
        copies=True,
    ),
}


def choose(names: Sequence[str]) -> tuple[PolicyWorld, ...]:
    """The tasks called `names`, in that order.

    Raises:
        InputError: a name is unknown or given twice, or there is none; they are of two environments; or what the
            environment needs is not installed.
    """
    worlds = chosen(names, WORLDS | LANDERS, "policies")
    kinds = {world.environment for world in worlds}
    if len(kinds) > 1:
        sets = " or ".join(", ".join(world.name for world in FAMILIES[kind].worlds) for kind in sorted(kinds))
        raise InputError(
            f"the tasks are of {len(kinds)} environments ({', '.join(sorted(kinds))}), and a testbed has one base",
            where="skills",
            fix=f"Name some of {sets}",
        )
    [kind] = (environments()[name] for name in kinds)
    try:
        kind.make({key: one.default for key, one in kind.settings.items()}, "--bed")
    except InputError as error:
        raise InputError(error.what, where="--bed", fix=error.fix) from None
    return worlds
