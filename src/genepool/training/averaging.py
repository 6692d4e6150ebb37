"""A running mean of what is trained, which stands in the model wherever it is judged and written.

A step moves the fast weights as ever; after it the mean follows them. Both are in the states and the hashes of a run,
so a killed training goes on to the same bits. Uses `optimiser`; `session` asks for it where a recipe says `average`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genepool.training.optimiser import Optimisation, Optimiser, fill

if TYPE_CHECKING:
    import torch

    from genepool.training.recipe import Average

#: How the names of the mean begin in a state.
MEAN = "average:"


class AveragingOptimiser(Optimiser):
    """An optimiser that keeps an exponential moving average of some of its parameters.

    After step t, counted from 1, ``mean <- d mean + (1 - d) weights``. The mean begins as the weights do. Where it
    rises, d is min(decay, (1 + t) / (10 + t)).

    Args:
        parameters: what is trained, by name.
        settings: the numbers of the steps.
        average: those of the mean.
        averaged: names of the parameters that are averaged; the others are judged as they are.
        rates: as for `Optimiser`.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        settings: Optimisation,
        average: Average,
        averaged: Collection[str],
        rates: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(parameters, settings, rates)
        self._average = average
        self._means = {name: tensor.clone() for name, tensor in self.trained().items() if name in averaged}
        self._stands = False

    def step(self, number: int) -> None:
        super().step(number)
        decay = self._average.decay_after(number + 1)
        trained = self.trained()
        for name, mean in self._means.items():
            # An interpolation turns -0 into 0 even where nothing of the mean is kept.
            mean.lerp_(trained[name], 1 - decay) if decay else mean.copy_(trained[name])

    def judged(self) -> dict[str, torch.Tensor]:
        trained = self.trained()
        if not self._stands:
            return {**trained, **self._means}
        # Where a parameter is its own master, both have changed places.
        rounded = [name for name in self._means if self._parameters[name] is not self._masters[name]]
        return {**trained, **{name: self._means[name] for name in rounded}}

    def moved(self) -> dict[str, torch.Tensor]:
        return {**self.trained(), **{f"{MEAN}{name}": mean for name, mean in self._means.items()}}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        self._exchange()
        self._stands = True
        try:
            yield
        finally:
            self._stands = False
            self._exchange(back=True)

    def _exchange(self, back: bool = False) -> None:
        """Puts the mean into the model, or the weights back; one tensor is copied at a time."""
        import torch

        with torch.no_grad():
            for name, mean in self._means.items():
                parameter, master = self._parameters[name], self._masters[name]
                if parameter is not master:
                    # The master remembers what the rounded parameter was.
                    parameter.copy_(master if back else mean)
                    continue
                waiting = parameter.detach().clone()
                parameter.copy_(mean)
                mean.copy_(waiting)

    def state(self) -> dict[str, torch.Tensor]:
        return {**super().state(), **{f"{MEAN}{name}": mean for name, mean in self._means.items()}}

    def restore(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        super().restore(state, step)
        trained = self.trained()
        for name, mean in self._means.items():
            # What a fork begins with has no mean yet.
            fill(mean, state[f"{MEAN}{name}"] if step else trained[name], name)


def judged_values(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The values in a state that were validated, by the names of values: the mean where there is one."""
    found = {name: tensor for name, tensor in state.items() if name.startswith("value:")}
    return found | {f"value:{n.removeprefix(MEAN)}": tensor for n, tensor in state.items() if n.startswith(MEAN)}
