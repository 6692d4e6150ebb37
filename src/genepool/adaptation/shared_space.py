"""A space that two kinds of inputs share: a layer of each leads into it, and one classifier reads it.

What is lent of the one kind helps to spread a few labels of the other. Plain tensors in and out; `heterogeneous` adapts
by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from genepool.seeding import torch_generator

# Lent examples of a step.
_A_STEP = 256
# How steep the nets' units are below 0, as in the authors' code.
_LEAK = 0.01


@dataclass(frozen=True)
class SpaceTraining:
    """How a space is trained.

    Attributes:
        width: of the space.
        source_weight: of the loss on what is lent.
        distance: weight of the distance between the two kinds.
        steps: of Adam.
        rate: of Adam.
    """

    width: int
    source_weight: float
    distance: float
    steps: int
    rate: float


@dataclass(frozen=True)
class SeenExamples:
    """What is known of one kind.

    Attributes:
        labelled: shape (n, width).
        targets: their classes, shape (n,).
        unlabelled: shape (m, width).
    """

    labelled: torch.Tensor
    targets: torch.Tensor
    unlabelled: torch.Tensor


def noise_like(targets: torch.Tensor, classes: int, width: int, seed: int) -> torch.Tensor:
    """Noise in place of lent examples, shape (n, width): a point drawn for each class, and noise about it.

    Args:
        targets: the classes, shape (n,); those below 0 count as 0.
        classes: their number.
        width: of an example.
        seed: of the draws.
    """
    centres = torch.randn(classes, width, generator=torch_generator(seed, "heterogeneous", "centres"))
    shape = (len(targets), width)
    return centres[targets.clamp_min(0)] + torch.randn(shape, generator=torch_generator(seed, "heterogeneous", "noise"))


class SharedSpace:
    """min CE(labelled) + b CE(lent) + m (|mean_s - mean_t|^2 + mean_c |mean_sc - mean_tc|^2), by steps of Adam.

    mean_t is over labelled and unlabelled examples; of a class it weighs the unlabelled ones by what is predicted for
    them, without gradient.

    Attributes:
        net: tensors by name; empty before the training.
    """

    def __init__(self) -> None:
        self.net: dict[str, torch.Tensor] = {}

    def train(
        self,
        seen: SeenExamples,
        lent: torch.Tensor,
        lent_targets: torch.Tensor,
        classes: int,
        how: SpaceTraining,
        seed: int,
        *,
        lends: bool = True,
    ) -> None:
        """Trains the layers and the classifier.

        Args:
            seen: of the kind that is asked for.
            lent: of the other kind, shape (n, width).
            lent_targets: their classes, shape (n,).
            classes: their number.
            how: settings.
            seed: of every draw.
            lends: whether what is lent is looked at.
        """
        net: dict[str, torch.Tensor] = {}
        for name, (rows, columns) in {
            "stream": (how.width, seen.labelled.shape[1]),
            "lent": (how.width, lent.shape[1]),
            "classes": (classes, how.width),
        }.items():
            generator = torch_generator(seed, "heterogeneous", name)
            net[name] = (2 * torch.rand(rows, columns, generator=generator) - 1) * columns**-0.5
            net[f"{name} bias"] = torch.zeros(rows)
        for one in net.values():
            one.requires_grad_(True)
        self.net = net
        optimiser = torch.optim.Adam(list(net.values()), lr=how.rate)
        for step in range(how.steps):
            labelled, others = self.shared("stream", seen.labelled), self.shared("stream", seen.unlabelled)
            loss = functional.cross_entropy(self.classified(labelled), seen.targets)
            if lends:
                generator = torch_generator(seed, "heterogeneous", "step", step)
                chosen = torch.randint(0, len(lent), (min(_A_STEP, len(lent)),), generator=generator)
                given, wanted = self.shared("lent", lent[chosen]), lent_targets[chosen]
                soft = self.classified(others).detach().softmax(-1)
                ours = torch.cat([functional.one_hot(seen.targets, classes).float(), soft])
                theirs = functional.one_hot(wanted, classes).float()
                loss = loss + how.source_weight * functional.cross_entropy(self.classified(given), wanted)
                loss = loss + how.distance * mean_distance(torch.cat([labelled, others]), ours, given, theirs)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.net = {name: one.detach() for name, one in net.items()}

    def shared(self, side: str, values: torch.Tensor) -> torch.Tensor:
        """Inputs of a side, "stream" or "lent", in the space that both share, of length 1, shape (n, width)."""
        inner = functional.leaky_relu(functional.linear(values, self.net[side], self.net[f"{side} bias"]), _LEAK)
        return functional.normalize(inner, dim=-1)

    def classified(self, shared: torch.Tensor) -> torch.Tensor:
        """Logits of what stands in the space, shape (n, classes)."""
        return functional.linear(shared, self.net["classes"], self.net["classes bias"])


def mean_distance(
    ours: torch.Tensor, our_classes: torch.Tensor, theirs: torch.Tensor, their_classes: torch.Tensor
) -> torch.Tensor:
    """|mean - mean|^2 of two sets of features, and the mean of the same by class; a scalar.

    Args:
        ours, theirs: features, shape (n, width).
        our_classes, their_classes: how much each is of each class, shape (n, classes); a class that one side has none
            of is left out.
    """
    whole = (ours.mean(0) - theirs.mean(0)).square().sum()
    shares = [one.sum(0) for one in (our_classes, their_classes)]
    there = (shares[0] > 0) & (shares[1] > 0)
    means = [
        (classes.T @ points)[there] / share[there, None]
        for classes, points, share in zip((our_classes, their_classes), (ours, theirs), shares, strict=True)
    ]
    apart = (means[0] - means[1]).square().sum(-1)
    return whole + (apart.mean() if len(apart) else whole * 0)
