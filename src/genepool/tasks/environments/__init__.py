"""Environments that policies act in: one file each, found by being there, around those of Gymnasium.

A file says what an environment is called, what may be set of it and between which numbers, what is observed and what
can be done. Nothing here imports Gymnasium until an episode is played (`pip install "genepool[environments]"`).
`playing` plays episodes; `reading` reads them from a task's files.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from genepool.checked import is_number, is_whole, kind_of
from genepool.errors import InputError, nearest
from genepool.folder_classes import classes_by_name

#: The keys of a line of a task of episodes, besides its id and its tags.
EPISODE_KEYS = ("environment", "config", "seed")
# Gymnasium takes seeds of four bytes at most.
_LARGEST_SEED = 2**32 - 1
_STEPS = "steps"


@dataclass(frozen=True)
class EnvironmentSetting:
    """A number that may be set of an environment.

    Attributes:
        default: what it is where nothing is said; Gymnasium's own.
        low, high: the least and the largest that is taken.
        does: what it is, with its unit.
    """

    default: float
    low: float
    high: float
    does: str


@dataclass(frozen=True)
class Spaces:
    """What is observed and what can be done.

    Attributes:
        observations: how many numbers an observation has.
        choices: how many actions there are to choose from; 0 where an action is numbers.
        numbers: how many numbers an action has; 0 where it is a choice.
        bound: the largest size of such a number.
    """

    observations: int
    choices: int = 0
    numbers: int = 0
    bound: float = 0.0

    @property
    def words(self) -> str:
        """For errors."""
        done = f"{self.choices} actions" if self.choices else f"{self.numbers} numbers up to {self.bound:g} to act by"
        return f"{self.observations} numbers observed and {done}"


class Environment(ABC):
    """One environment.

    Class attributes:
        name: what a task calls it; its file's name.
        registered: what Gymnasium calls it.
        spaces: what is observed and what can be done.
        most_steps: an episode is over after so many (Gymnasium's own limit); `steps` in a config sets a lower one.
        settings: what else a config may set.
        extra: how what it needs is installed.
    """

    name: ClassVar[str]
    registered: ClassVar[str]
    spaces: ClassVar[Spaces]
    most_steps: ClassVar[int]
    settings: ClassVar[Mapping[str, EnvironmentSetting]]
    extra: ClassVar[str] = 'pip install "genepool[environments]"'

    @abstractmethod
    def configure(self, simulator: Any, config: Mapping[str, float]) -> None:
        """Sets what a config sets.

        Args:
            simulator: Gymnasium's environment, without wrappers.
            config: every setting, by its name.
        """

    def reward(self, given: float, action: Any, config: Mapping[str, float], *, over: bool) -> float:
        """The reward of a step.

        Args:
            given: Gymnasium's.
            action: what was done.
            config: every setting, by its name.
            over: whether the world, and not the number of steps, ended the episode.
        """
        return given

    def make(self, config: Mapping[str, float], where: str) -> Any:
        """Gymnasium's environment, without wrappers, as a config asks.

        Args:
            config: every setting, by its name.
            where: the example, for errors.

        Raises:
            InputError: what it needs is not installed.
        """
        try:
            import gymnasium

            simulator = gymnasium.make(self.registered, disable_env_checker=True).unwrapped
        except Exception as error:
            # Gymnasium has an exception of its own for packages that an environment needs.
            missing = isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled"
            if not missing:
                raise
            raise InputError(
                f"what the environment {self.name} needs is not installed ({str(error).splitlines()[0]:.80})",
                where=where,
                fix=f"Install it: {self.extra}",
            ) from None
        self.configure(simulator, config)
        return simulator


@dataclass(frozen=True)
class Episode:
    """One start of one environment: what an example of a task of episodes is.

    Attributes:
        environment: its name.
        config: what is set of it, by name, in alphabetical order; what is not there is Gymnasium's own.
        seed: of the start.
    """

    environment: str
    config: tuple[tuple[str, float], ...]
    seed: int

    @property
    def kind(self) -> Environment:
        """The environment."""
        return environments()[self.environment]

    @property
    def steps(self) -> int:
        """After so many steps it is over."""
        return int(dict(self.config).get(_STEPS, self.kind.most_steps))

    @property
    def settings(self) -> dict[str, float]:
        """Every setting of the environment, by its name."""
        kind = self.kind
        return {**{name: one.default for name, one in kind.settings.items()}, **dict(self.config)}

    @property
    def words(self) -> str:
        """For people."""
        return " ".join([self.environment, *(f"{key}={value:g}" for key, value in self.config), f"seed={self.seed}"])

    def content(self) -> list[Any]:
        """What it is known by, as plain data."""
        return [self.environment, [list(pair) for pair in self.config], self.seed]


@functools.cache
def environments() -> dict[str, Environment]:
    """Every environment by name, in alphabetical order."""
    return {name: kind() for name, kind in classes_by_name(__name__, Environment).items()}


def episode_of(data: Mapping[str, Any], where: str) -> Episode:
    """The episode that a line says.

    Args:
        data: the line; `config` and `seed` may be missing.
        where: the line, for errors.

    Raises:
        InputError: there is no such environment, a setting is unknown or out of range, or the seed is none.
    """
    name, config, seed = data.get("environment"), data.get("config", {}), data.get("seed", 0)
    known = environments()
    if not isinstance(name, str) or name not in known:
        raise InputError(f"there is no environment {str(name)[:40]!r}", where=where, fix=nearest(str(name)[:40], known))
    if not isinstance(config, Mapping):
        raise InputError(f"got {kind_of(config)} for `config`", where=where, fix='Write it like {"steps": 200}')
    if not is_whole(seed, 0, _LARGEST_SEED):
        raise InputError(
            f"got {seed!r:.40} for `seed`, expected a whole number from 0 to {_LARGEST_SEED}", where=where,
            fix="Correct it",
        )  # fmt: skip
    kind = known[name]
    allowed = {**kind.settings, _STEPS: EnvironmentSetting(kind.most_steps, 1, kind.most_steps, "")}
    for key, value in config.items():
        if key not in allowed:
            raise InputError(
                f"{name} has no setting '{str(key)[:40]}'", where=where, fix=nearest(str(key)[:40], allowed)
            )
        low, high = allowed[key].low, allowed[key].high
        if not is_number(value, low, high) or (key == _STEPS and not is_whole(value)):
            raise InputError(
                f"got {value!r:.40} for `{key}`, expected a {'whole ' if key == _STEPS else ''}number from {low:g} to "
                f"{high:g}",
                where=where,
                fix="Correct it",
            )
    return Episode(name, tuple(sorted((str(key), float(value)) for key, value in config.items())), seed)
