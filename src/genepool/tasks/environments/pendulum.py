"""A pendulum that is to be swung up by a torque; the return is minus the cost of every step, 0 at best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from genepool.tasks.environments import Environment, EnvironmentSetting, Spaces


class Pendulum(Environment):
    """Gymnasium's Pendulum-v1. A step costs at most pi^2 + 0.1 * 8^2 + 0.001 * 2^2, which is 16.28."""

    name = "pendulum"
    registered = "Pendulum-v1"
    spaces = Spaces(3, numbers=1, bound=2.0)
    most_steps = 200
    settings: ClassVar[Mapping[str, EnvironmentSetting]] = {
        "m": EnvironmentSetting(1.0, 0.01, 20.0, "Mass, in kilogrammes."),
        "l": EnvironmentSetting(1.0, 0.05, 20.0, "Length, in metres."),
        "g": EnvironmentSetting(10.0, 0.1, 100.0, "Gravity, in metres per second squared."),
    }

    def configure(self, simulator: Any, config: Mapping[str, float]) -> None:
        for name in self.settings:
            setattr(simulator, name, config[name])
