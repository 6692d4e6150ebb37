"""A car that must swing to get out of a valley; the return is minus the number of steps that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from genepool.tasks.environments import Environment, EnvironmentSetting, Spaces


class MountainCar(Environment):
    """Gymnasium's MountainCar-v0 (Moore 1990)."""

    name = "mountain_car"
    registered = "MountainCar-v0"
    spaces = Spaces(2, choices=3)
    most_steps = 200
    settings: ClassVar[Mapping[str, EnvironmentSetting]] = {
        "force": EnvironmentSetting(0.001, -0.01, 0.01, "The push of an action; below 0 left and right change sides."),
        "gravity": EnvironmentSetting(0.0025, 0.0001, 0.01, "What pulls the car down."),
    }

    def configure(self, simulator: Any, config: Mapping[str, float]) -> None:
        for name in self.settings:
            setattr(simulator, name, config[name])
