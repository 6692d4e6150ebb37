"""AdamW with a learning rate schedule, clipped gradients and float32 master weights.

Its state can be kept and put back, to the same bits. Everything that is trained here is trained by it. Uses torch
alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Optimisation:
    """The numbers of one training.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: the largest, reached after the warm-up.
        warmup: steps over which it rises linearly from 0.
        shape: how it falls afterwards.
        floor: the share of the learning rate that it would have fallen to one step after the last.
        betas: AdamW's decay of both moments.
        weight_decay: AdamW's, decoupled.
        clip: the largest norm of the gradient of all parameters together; 0 does not clip.
        fused: torch's fused kernel, the fastest; the plain one adds in another order.
    """

    steps: int
    learning_rate: float
    warmup: int = 0
    shape: Shape = "linear"
    floor: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    fused: bool = True

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * ((step + 1) / self.warmup)
        if self.shape == "constant":
            return self.learning_rate
        left = (self.steps - step) / max(1, self.steps - self.warmup)
        share = left if self.shape == "linear" else 0.5 * (1 - math.cos(math.pi * left))
        return self.learning_rate * (self.floor + (1 - self.floor) * share)


class Optimiser:
    """Moves parameters against the gradients that stand in their `.grad`.

    A parameter that is not float32 is moved as a float32 copy, its master, and rounded after each step: steps that are
    smaller than the rounding would else be lost.

    Args:
        parameters: what is trained, by name.
        settings: the numbers.
        rates: the part of the learning rate of some parameters, by name; 1 for all others.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        settings: Optimisation,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        import torch

        self.settings = settings
        self._parameters = dict(parameters)
        self._masters: dict[str, torch.nn.Parameter] = {
            name: parameter if parameter.dtype == torch.float32 else torch.nn.Parameter(parameter.detach().float())
            for name, parameter in self._parameters.items()
        }
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, master in self._masters.items():
            groups.setdefault((rates or {}).get(name, 1.0), []).append(master)
        self._adam = torch.optim.AdamW(
            [{"params": masters, "share": share} for share, masters in groups.items()],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=settings.fused or None,
        )

    def clip(self) -> float:
        """Clips the gradients that stand in the parameters.

        Returns:
            Their norm before.
        """
        import torch

        for name, master in self._masters.items():
            parameter = self._parameters[name]
            if parameter.grad is None:
                # All parameters count their steps together, so that a state needs one number.
                master.grad = torch.zeros_like(master)
            elif master is not parameter:
                master.grad, parameter.grad = parameter.grad.float(), None
        limit = self.settings.clip or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self._masters.values(), limit))

    def step(self, number: int) -> None:
        """Takes step `number`, counted from 0, along the clipped gradients, and lets go of them."""
        import torch

        for group in self._adam.param_groups:
            group["lr"] = group["share"] * self.settings.rate(number)
        self._adam.step()
        self._adam.zero_grad()
        with torch.no_grad():
            for name, master in self._masters.items():
                if master is not self._parameters[name]:
                    self._parameters[name].copy_(master)

    def trained(self) -> dict[str, torch.Tensor]:
        """The parameters in float32, by name: the very tensors, not copies."""
        return {name: master.detach() for name, master in self._masters.items()}

    def judged(self) -> dict[str, torch.Tensor]:
        """What is validated and written, in float32, by name: here what is trained."""
        return self.trained()

    def moved(self) -> dict[str, torch.Tensor]:
        """Everything that a step moves of a model, by name: what a step taken again must come to."""
        return self.trained()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, `judged` stands in the parameters."""
        yield

    def state(self) -> dict[str, torch.Tensor]:
        """Everything the next step depends on besides its gradient: parameters and both moments, by name."""
        found = {f"value:{name}": tensor for name, tensor in self.trained().items()}
        for name, master in self._masters.items():
            kept = self._adam.state.get(master, {})
            found |= {f"{moment}:{name}": kept[moment] for moment in ("exp_avg", "exp_avg_sq") if moment in kept}
        return found

    def restore(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        """Puts back what `state` gave after `step` steps: the next step has the same bits.

        Raises:
            KeyError: a tensor is missing.
            ValueError: one has another shape.
        """
        import torch

        for name, master in self._masters.items():
            fill(master, state[f"value:{name}"], name)
            if master is not self._parameters[name]:
                fill(self._parameters[name], master.detach(), name)
            if step:
                moments = {m: torch.zeros_like(master) for m in ("exp_avg", "exp_avg_sq")}
                for moment, tensor in moments.items():
                    fill(tensor, state[f"{moment}:{name}"], name)
                place = master.device if self.settings.fused else torch.device("cpu")
                self._adam.state[master] = {"step": torch.tensor(float(step), device=place), **moments}


def fill(target: torch.Tensor, values: torch.Tensor, name: str) -> None:
    """Puts values into a tensor.

    Raises:
        ValueError: they have another shape; `name` says whose.
    """
    import torch

    if target.shape != values.shape:
        raise ValueError(f"{name} is {list(values.shape)}, expected {list(target.shape)}")
    with torch.no_grad():
        target.copy_(values)
