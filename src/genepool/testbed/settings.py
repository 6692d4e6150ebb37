"""What the settings of testbeds with tasks to choose from have in common."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class BedSettings(ABC):
    """Everything that decides what a build makes.

    Attributes:
        tiny: about a tenth of the default's work.
        seed: of data, starting weights and order.
        skills: the tasks that specialists are made for.
        version: of the recipe: another one makes other files from the same settings.
    """

    tiny: bool
    seed: int
    skills: tuple[str, ...]
    version: ClassVar[int]

    @property
    @abstractmethod
    def schedule(self) -> Any:
        """The numbers of the build, a dataclass."""

    def digest(self) -> str:
        """A hash of the settings, the schedule and the version of the recipe."""
        whole = {"version": self.version, **asdict(self), "schedule": asdict(self.schedule)}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
