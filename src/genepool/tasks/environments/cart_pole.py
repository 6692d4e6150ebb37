"""A pole on a cart that is pushed to the left or to the right; the return is the number of steps that it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from genepool.tasks.environments import Environment, EnvironmentSetting, Spaces


class CartPole(Environment):
    """Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983)."""

    name = "cart_pole"
    registered = "CartPole-v1"
    spaces = Spaces(4, choices=2)
    most_steps = 500
    settings: ClassVar[Mapping[str, EnvironmentSetting]] = {
        "length": EnvironmentSetting(0.5, 0.02, 20.0, "Half of the pole's length, in metres."),
        "masspole": EnvironmentSetting(0.1, 0.001, 10.0, "Mass of the pole, in kilogrammes."),
        "masscart": EnvironmentSetting(1.0, 0.01, 100.0, "Mass of the cart, in kilogrammes."),
        "gravity": EnvironmentSetting(9.8, 0.1, 100.0, "In metres per second squared."),
        "force_mag": EnvironmentSetting(
            10.0, -100.0, 100.0, "The push of an action, in newtons; below 0 the two change sides."
        ),
    }

    def configure(self, simulator: Any, config: Mapping[str, float]) -> None:
        for name in self.settings:
            setattr(simulator, name, config[name])
        # What Gymnasium computes from these when it makes one.
        simulator.total_mass = simulator.masspole + simulator.masscart
        simulator.polemass_length = simulator.masspole * simulator.length
