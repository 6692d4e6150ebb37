"""A lander with three engines; the return is that of Gymnasium, with the prices of fuel and time that a config asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from genepool.tasks.environments import Environment, EnvironmentSetting, Spaces

# What Gymnasium takes off a step for the main engine and for one at the side: actions 2, and 1 and 3.
_PRICES = {0: 0.0, 1: 0.03, 2: 0.30, 3: 0.03}


class LunarLander(Environment):
    """Gymnasium's LunarLander-v3, which needs Box2D."""

    name = "lunar_lander"
    registered = "LunarLander-v3"
    spaces = Spaces(8, choices=4)
    most_steps = 1000
    settings: ClassVar[Mapping[str, EnvironmentSetting]] = {
        "gravity": EnvironmentSetting(-10.0, -11.9, -0.1, "In Box2D's units."),
        "fuel": EnvironmentSetting(
            1.0, 0.0, 100.0, "Price of fuel, in multiples of Gymnasium's: another reward, not a world."
        ),
        "time": EnvironmentSetting(0.0, 0.0, 100.0, "Price of a step: another reward, not a world."),
    }
    extra = 'pip install "genepool[landers]"'

    def configure(self, simulator: Any, config: Mapping[str, float]) -> None:
        # Its world is made anew, with this gravity, when an episode begins.
        simulator.gravity = config["gravity"]

    def reward(self, given: float, action: Any, config: Mapping[str, float], *, over: bool) -> float:
        # A crash or a landing is -100 or 100, whatever was burnt and however long it took.
        return given if over else given - (config["fuel"] - 1) * _PRICES[int(action)] - config["time"]
