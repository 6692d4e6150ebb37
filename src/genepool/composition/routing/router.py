"""A router: a small network that says which skill an input belongs to, from one vector for each input.

Two hidden layers of twice the vector's width, each with batch normalisation, leaky ReLU and dropout, as in
Twin-Merging (Lu et al. 2024, arXiv:2406.15479, authors' code). Uses training and `kept_fit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from genepool import progress
from genepool.composition.kept_fit import HeldOutLooks, KeptFit
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training import Diverged, Optimisation, Optimiser, fit
from genepool.training.fit import Step, drawing

_HIDDEN = 2


class Router(nn.Module):
    """Vectors `(inputs, width)` in, logits `(inputs, skills)` out.

    Args:
        width: of a vector.
        skills: how many there are.
        dropout: share of the hidden units that is left out of a step.
    """

    def __init__(self, width: int, skills: int, dropout: float = 0.5) -> None:
        super().__init__()
        sizes = [width, *[2 * width] * _HIDDEN]
        self.hidden = nn.ModuleList(nn.Linear(before, size) for before, size in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes[1:])
        self.out = nn.Linear(sizes[-1], skills)
        self.width, self.dropout = width, dropout

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        x = vectors.float()
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = nn.functional.leaky_relu(norm(layer(x)))
            x = nn.functional.dropout(x, self.dropout, self.training)
        logits: torch.Tensor = self.out(x)
        return logits

    def averages(self) -> dict[str, torch.Tensor]:
        """The running means and variances: what is kept beside the parameters. The very tensors, not copies."""
        return {name: tensor for name, tensor in self.named_buffers() if tensor.is_floating_point()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that is saved of it, by name."""
        return {**dict(self.named_parameters()), **self.averages()}

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `tensors` gave."""
        with torch.no_grad():
            for name, own in self.tensors().items():
                own.copy_(tensors[name])


@dataclass(frozen=True)
class RoutedInputs:
    """What a router learns from.

    Attributes:
        vectors: shape (inputs, width), float32.
        skills: the skill that each belongs to, shape (inputs,), int64.
        learn, held: numbers of the inputs that are fitted on, and of those that are held out.
    """

    vectors: torch.Tensor
    skills: torch.Tensor
    learn: Sequence[int]
    held: Sequence[int]


@dataclass(frozen=True)
class RouterFit:
    """How a router is trained.

    Attributes:
        epochs: rounds over the inputs.
        learning_rate: of Adam at the first step; it falls to 0 along a line.
        batch: inputs in a step, at most.
        dropout: see `Router`.
        seed: of the first weights, the order and the dropout.
    """

    epochs: int
    learning_rate: float
    batch: int
    dropout: float
    seed: int


def train_router(inputs: RoutedInputs, skills: int, how: RouterFit, kept: KeptFit) -> tuple[Router, dict[str, Any]]:
    """Trains a router, or goes on with a training that was stopped; the state with the lowest held-out loss counts.

    Args:
        inputs: at least two to learn from.
        skills: how many there are.
        how: the settings.
        kept: where the state is kept after every epoch.

    Returns:
        The router in evaluation mode, and how it was trained as plain data.

    Raises:
        InputError: the vectors are no finite numbers, or the first loss is not.
    """
    if not bool(torch.isfinite(inputs.vectors).all()):
        raise InputError(
            "the shared model's hidden states are NaN or infinite, so nothing can be routed by them",
            where="twin_merging",
            fix="Give a smaller --set scale, or compute with --dtype float32",
        )
    router = _new_router(inputs.vectors.shape[1], skills, how)
    learn = torch.tensor(inputs.learn)
    size = min(how.batch, len(learn))
    every = -(-len(learn) // size)
    optimiser = Optimiser(dict(router.named_parameters()), Optimisation(how.epochs * every, how.learning_rate))
    looks = HeldOutLooks(kept, optimiser, 0, router.averages())
    start, stopped = looks.resume(), ""
    with progress.bar("training the router", how.epochs, "epochs") as bar:
        bar.advance(start // every)

        def gradients(step: int) -> float:
            router.train()
            rows = learn[_places(how.seed, step, size, len(learn))]
            with torch.enable_grad(), drawing(how.seed, step, "router"):
                loss = nn.functional.cross_entropy(router(inputs.vectors[rows]), inputs.skills[rows])
                loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        def after(step: Step) -> bool:
            looks.losses.append(step.loss)
            if step.number % every == 0:
                bar.advance()
                looks.add(step.number, _held_loss(router, inputs))
            return False

        try:
            if not looks.begun:
                looks.add(0, _held_loss(router, inputs))
            taken = fit(optimiser, gradients, after, start=start)
        except Diverged as error:
            taken, stopped = error.step - 1, str(error)
            if taken < 1:
                raise InputError(
                    f"{error} before the router learned anything", where="--set learning_rate", fix="Give a smaller one"
                ) from None
            progress.message(f"warning: {error}; the last good state is what is used")
    router.put(looks.best())
    record = {
        "steps": taken,
        "best_step": looks.best_step,
        "stopped": stopped,
        "loss": looks.losses,
        "held_out": looks.history,
        "right": _share_right(router, inputs),
    }
    return router.eval(), record


def _new_router(width: int, skills: int, how: RouterFit) -> Router:
    """A router whose weights are drawn as torch draws them, by the seed alone."""
    with drawing(how.seed, 0, "router weights"):
        return Router(width, skills, how.dropout)


def _places(seed: int, step: int, size: int, count: int) -> list[int]:
    """The inputs of a step, counted from 0: the next of an endless row of shuffled rounds, so no batch is smaller."""
    places = range(step * size, (step + 1) * size)
    rounds = {at // count for at in places}
    orders = {one: numpy_generator(seed, "router order", one).permutation(count) for one in rounds}
    return [int(orders[at // count][at % count]) for at in places]


def _held_loss(router: Router, inputs: RoutedInputs) -> float | None:
    """Cross-entropy of the inputs that are held out; None where there are none."""
    if not inputs.held:
        return None
    rows = torch.tensor(inputs.held)
    with torch.no_grad():
        logits = router.eval()(inputs.vectors[rows])
        return float(nn.functional.cross_entropy(logits, inputs.skills[rows]))


def chosen_of_held(router: Router, inputs: RoutedInputs) -> torch.Tensor:
    """The likeliest skill of each input that is held out, shape (held,)."""
    with torch.no_grad():
        logits: torch.Tensor = router.eval()(inputs.vectors[torch.tensor(inputs.held, dtype=torch.long)])
        return logits.argmax(1)


def _share_right(router: Router, inputs: RoutedInputs) -> float | None:
    """Share of the held-out inputs whose likeliest skill is their own; None where there are none."""
    if not inputs.held:
        return None
    right = chosen_of_held(router, inputs) == inputs.skills[torch.tensor(inputs.held)]
    return float(right.double().mean())
