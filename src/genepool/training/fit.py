"""The one training loop: gradients, a step, and a look at both. What is trained, and on what, is its callers' choice.

Uses `optimiser`. A run's randomness belongs to (seed, step, purpose), which `gradients` sees to, so a loop that begins
at a later step with the state of that step has the same bits as one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from genepool.errors import InputError
from genepool.seeding import derive
from genepool.training.optimiser import Optimisation

if TYPE_CHECKING:
    from genepool.tasks import Model
    from genepool.training.batches import EncodedExamples
    from genepool.training.objectives import TargetObjective


@dataclass(frozen=True)
class Step:
    """One step that was taken.

    Attributes:
        number: how many steps there were, with this one.
        loss: before it.
        norm: of the gradient, before it was clipped.
        rate: the learning rate.
    """

    number: int
    loss: float
    norm: float
    rate: float


class TrainingDiverged(InputError):
    """A training that ended because its loss is no number any more; what it has until then stays."""


class Diverged(Exception):
    """The loss or the gradient is no finite number any more; the parameters are those before the step.

    Attributes:
        step: the number the step would have had, counted from 1.
        what: "loss", "gradient" or "validation loss after".
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"the {what} {'step' if what.endswith('after') else 'of step'} {step} is not a finite number")
        self.step, self.what = step, what


class Stepping(Protocol):
    """What a loop moves: an `Optimiser`, or whatever else takes steps."""

    @property
    def settings(self) -> Optimisation:
        """The numbers of the training."""

    def clip(self) -> float:
        """Clips the gradients; their norm before."""

    def step(self, number: int) -> None:
        """Takes step `number`, counted from 0."""


def fit(
    optimiser: Stepping,
    gradients: Callable[[int], float],
    after_step: Callable[[Step], bool | None] = lambda _: None,
    *,
    start: int = 0,
) -> int:
    """Takes the steps from `start` to the last of the optimiser's settings.

    Args:
        optimiser: holds the parameters.
        gradients: called with the step, counted from 0; leaves the gradients in the parameters, returns the loss.
        after_step: called after each step; True ends the training there, and so does what it raises.
        start: the first step.

    Returns:
        How many steps there were in all.

    Raises:
        Diverged: the loss or gradient of a step is NaN or infinite. That step is not taken.
    """
    settings = optimiser.settings
    for number in range(start, settings.steps):
        loss = gradients(number)
        if not math.isfinite(loss):
            raise Diverged(number + 1, "loss")
        norm = optimiser.clip()
        if not math.isfinite(norm):
            raise Diverged(number + 1, "gradient")
        optimiser.step(number)
        if after_step(Step(number + 1, loss, norm, settings.rate(number))):
            return number + 1
    return settings.steps


def descend(objective: TargetObjective, model: Model, examples: EncodedExamples) -> float:
    """Adds the gradient of the mean loss of all examples to the parameters that ask for one.

    An example's loss is the mean over the tokens of its answer.

    Returns:
        The mean loss.
    """
    import torch

    total = 0.0
    with torch.enable_grad():
        for batch in examples.batches:
            loss = batch.means(objective.losses(model, batch)).sum() / len(examples.answers)
            # Without a parameter that asks for it nothing has a gradient.
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    return total


@contextmanager
def drawing(seed: int, step: int, purpose: str) -> Iterator[None]:
    """torch's global generators (dropout) start from (seed, step, purpose) inside, and are as they were after it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, purpose, step))
        yield
