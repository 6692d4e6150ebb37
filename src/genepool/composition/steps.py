"""How a fit of coefficients takes a step: everything at once, or each tensor as soon as backward has its gradient.

The second (`FusedSteps`) reads every skill once a step. It gives what the first gives where no tensor's coefficients
depend on another's: nothing is shared, and no norm of all gradients clips them. Uses `gradient` and training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from genepool.composition.coefficients import Parametrisation
from genepool.composition.gradient import MergedNetwork
from genepool.training import Diverged, Optimisation, Optimiser

if TYPE_CHECKING:
    import torch

    #: Changes what is learned in place after a step, entry by entry: by name, of all tensors or of one.
    Project = Callable[[Mapping[str, torch.Tensor]], None]
    Losses = Sequence[Callable[[], torch.Tensor]]


class ComposedNetwork(Protocol):
    """A network that holds a composition: `MergedNetwork`, or `BranchedNetwork`."""

    def put(self, coefficients: torch.Tensor) -> None:
        """Makes it the composition of these coefficients."""

    def gradient(self, losses: Losses) -> tuple[float, torch.Tensor]:
        """The sum of some losses and its gradient with respect to the coefficients."""


class CoefficientSteps(ABC):
    """What is learned, and the network that holds it.

    It is an optimiser for `training.fit` and for `HeldOutLooks`.

    Attributes:
        settings: the numbers of the optimisation.
    """

    settings: Optimisation

    @abstractmethod
    def gradients(self, number: int, losses: Losses) -> float:
        """The loss of step `number`, counted from 0, and its gradients."""

    @abstractmethod
    def clip(self) -> float:
        """The norm of the gradients before they are clipped."""

    @abstractmethod
    def step(self, number: int) -> None:
        """Takes the step."""

    @abstractmethod
    def put(self) -> None:
        """Makes the network the composition that is learned so far."""

    @abstractmethod
    def trained(self) -> dict[str, torch.Tensor]:
        """What is learned, by name, float32."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """What the next step depends on besides its gradient; see `Optimiser.state`."""

    @abstractmethod
    def restore(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        """Puts back what `state` gave; see `Optimiser.restore`."""


class WholeSteps(CoefficientSteps):
    """Merges, takes the gradient of all coefficients, and moves what they are made of.

    Args:
        network: holds the composition.
        parametrisation: what the coefficients are made of.
        settings: the numbers.
        project: what follows every step.
    """

    def __init__(
        self,
        network: ComposedNetwork,
        parametrisation: Parametrisation,
        settings: Optimisation,
        project: Project | None = None,
    ) -> None:
        import torch

        self.settings, self._network, self._parametrisation, self._project = settings, network, parametrisation, project
        self._learned = {name: torch.nn.Parameter(value) for name, value in parametrisation.start().items()}
        self._optimiser = Optimiser(self._learned, settings)
        self._put: torch.Tensor | None = None

    def gradients(self, number: int, losses: Losses) -> float:
        coefficients = self._parametrisation.in_step(self._learned, number)
        self._put_these(coefficients.detach())
        loss, slopes = self._network.gradient(losses)
        coefficients.backward(slopes.to(coefficients.dtype))  # type: ignore[no-untyped-call]
        return loss

    def clip(self) -> float:
        return self._optimiser.clip()

    def step(self, number: int) -> None:
        self._optimiser.step(number)
        if self._project is not None:
            self._project(self._optimiser.trained())

    def put(self) -> None:
        self._put_these(self._parametrisation.coefficients(self._learned).detach())

    def _put_these(self, coefficients: torch.Tensor) -> None:
        import torch

        # A look at held-out inputs leaves in the network what the next step begins with.
        if self._put is None or not torch.equal(self._put, coefficients):
            self._network.put(coefficients)
            self._put = coefficients.clone()

    def trained(self) -> dict[str, torch.Tensor]:
        return self._optimiser.trained()

    def state(self) -> dict[str, torch.Tensor]:
        return self._optimiser.state()

    def restore(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        self._optimiser.restore(state, step)


class FusedSteps(CoefficientSteps):
    """Each tensor takes its step in the backward pass: gradient, Adam and merge while its vectors are at hand.

    A tensor is merged anew from the base, as `WholeSteps` does it, so no rounding adds up over the steps.

    Args:
        network: holds the merge.
        parametrisation: what the coefficients are made of.
        own: the same for each tensor by itself (`Parametrisation.by_tensor`).
        settings: the numbers, without clipping.
        project: what follows every step.
    """

    def __init__(
        self,
        network: MergedNetwork,
        parametrisation: Parametrisation,
        own: Sequence[Parametrisation],
        settings: Optimisation,
        project: Project | None = None,
    ) -> None:
        import torch

        assert not settings.clip, "a norm of all gradients is known too late"
        self.settings, self._network, self._project = settings, network, project
        self._own = own
        start = parametrisation.start()
        self._learned = [
            {name: torch.nn.Parameter(value[:, place : place + 1].clone()) for name, value in start.items()}
            for place in range(len(own))
        ]
        self._optimisers = [Optimiser(learned, settings) for learned in self._learned]
        self._held = False
        self._norm = 0.0

    def gradients(self, number: int, losses: Losses) -> float:
        import torch

        self.put()
        squares = 0.0

        def move(place: int, slopes: torch.Tensor) -> torch.Tensor:
            nonlocal squares
            learned, own, optimiser = self._learned[place], self._own[place], self._optimisers[place]
            # A backward pass calls this, in which nothing is recorded.
            with torch.enable_grad():
                before = own.coefficients(learned)
            before.backward(slopes[:, None].to(before.dtype))  # type: ignore[no-untyped-call]
            norm = optimiser.clip()
            if not math.isfinite(norm):
                raise Diverged(number + 1, "gradient")
            squares += norm * norm
            optimiser.step(number)
            if self._project is not None:
                self._project(optimiser.trained())
            return own.coefficients(learned).detach()[:, 0]

        loss, _ = self._network.gradient(losses, move)
        self._norm = math.sqrt(squares)
        return loss

    def clip(self) -> float:
        return self._norm

    def step(self, number: int) -> None:
        """Nothing: the step was taken when the gradients were."""

    def put(self) -> None:
        import torch

        if not self._held:
            # As `move` makes them: those of all tensors at once may be rounded otherwise.
            with torch.no_grad():
                each = [own.coefficients(learned) for own, learned in zip(self._own, self._learned, strict=True)]
            self._network.put(torch.cat(each, 1))
            self._held = True

    def trained(self) -> dict[str, torch.Tensor]:
        return self._together([optimiser.trained() for optimiser in self._optimisers])

    def state(self) -> dict[str, torch.Tensor]:
        return self._together([optimiser.state() for optimiser in self._optimisers])

    def restore(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        for name, tensor in state.items():
            if tensor.dim() < 2 or tensor.shape[1] != len(self._own):
                raise ValueError(f"{name} is {list(tensor.shape)}, expected {len(self._own)} tensors")
        for place, optimiser in enumerate(self._optimisers):
            optimiser.restore({name: tensor[:, place : place + 1] for name, tensor in state.items()}, step)
        self._held = False

    @staticmethod
    def _together(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        import torch

        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
