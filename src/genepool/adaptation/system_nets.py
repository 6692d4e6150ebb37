"""Nets that systems of one kind share: one whose systems differ by a few weights, and one that each system begins at.

The first is CAMEL's, the second MAML's. Plain tensors in and out: a row is an input and what it leads to, and belongs
to a system. The adapters `camel` and `maml` use them, each beside a frozen forecaster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from genepool.errors import InputError
from genepool.seeding import torch_generator

#: Rows of every system in a step of a training.
A_SYSTEM = 16

Net = dict[str, torch.Tensor]


def fresh_net(width: int, hidden: int, out: int, purpose: str, seed: int, device: torch.device) -> Net:
    """A net of one hidden layer before its training: weights even within 1 / sqrt(inputs), biases 0.

    Args:
        width, hidden, out: numbers of inputs, hidden units and outputs.
        purpose: what it is for; other draws for others.
        seed: of the draws.
        device: where it computes.
    """
    found: Net = {}
    for name, rows, columns in (("first", hidden, width), ("second", out, hidden)):
        generator = torch_generator(seed, purpose, name)
        drawn = (2 * torch.rand(rows, columns, generator=generator) - 1) * columns**-0.5
        found[name], found[f"{name} bias"] = drawn, torch.zeros(rows)
    return {name: one.to(device) for name, one in found.items()}


def through(net: Net, inputs: torch.Tensor) -> torch.Tensor:
    """What a net makes of inputs, shape (n, out)."""
    inner = torch.tanh(functional.linear(inputs, net["first"], net["first bias"]))
    return functional.linear(inner, net["second"], net["second bias"])


def _drawn(own: Sequence[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Rows of each system in turn, as many of each."""
    return torch.cat([part[torch.randint(0, len(part), (A_SYSTEM,), generator=generator)] for part in own])


def _rows(systems: torch.Tensor) -> list[torch.Tensor]:
    """The rows of each system."""
    return [(systems == one).nonzero().flatten() for one in range(int(systems.max()) + 1)]


class AffineSystems:
    """y = c(x) + w'V(x): c and V are one net that all systems share, and a system is known by its w.

    Args:
        factors: numbers that a system is known by.
        hidden: units of the net.
        seed: of every draw.

    Attributes:
        net: the net; empty before the training.
        known: the w of each system of the training, shape (systems, factors).
    """

    def __init__(self, factors: int, hidden: int, seed: int) -> None:
        self.factors, self.hidden, self.seed = factors, hidden, seed
        self.net: Net = {}
        self.known = torch.zeros(0, factors)

    def train(
        self, inputs: torch.Tensor, targets: torch.Tensor, systems: torch.Tensor, steps: int, rate: float
    ) -> None:
        """Trains the net and the weights of the systems together, by the mean squared error and Adam.

        Args:
            inputs: shape (n, width).
            targets: shape (n, values).
            systems: the number of the system that each row is of, shape (n,), from 0 without gaps.
            steps: of the training.
            rate: of Adam.
        """
        out = (1 + self.factors) * targets.shape[1]
        self.net = fresh_net(inputs.shape[1], self.hidden, out, "camel", self.seed, inputs.device)
        own = _rows(systems)
        weights = torch.randn(len(own), self.factors, generator=torch_generator(self.seed, "camel", "systems"))
        weights = weights.to(inputs.device).requires_grad_(True)
        for one in self.net.values():
            one.requires_grad_(True)
        optimiser = torch.optim.Adam([*self.net.values(), weights], lr=rate)
        for step in range(steps):
            rows = _drawn(own, torch_generator(self.seed, "camel", step))
            common, varying = self.parts(inputs[rows])
            # Their systems in turn, each for as many rows.
            mine = weights.repeat_interleave(A_SYSTEM, 0)
            loss = (targets[rows] - common - torch.einsum("nk,nkv->nv", mine, varying)).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.net = {name: one.detach() for name, one in self.net.items()}
        self.known = weights.detach()

    def parts(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """c, shape (n, values), and V, shape (n, factors, values), of inputs of shape (n, width)."""
        found = through(self.net, inputs).view(len(inputs), 1 + self.factors, -1)
        return found[:, 0], found[:, 1:]

    def weights(self, inputs: torch.Tensor, targets: torch.Tensor, ridge: float) -> torch.Tensor:
        """The w of a system of which some rows are known, shape (factors,), in closed form."""
        with torch.no_grad():
            common, varying = self.parts(inputs)
            return fitted_weights(varying, targets - common, ridge)

    def predict(self, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """What a system of some w makes of inputs, shape (n, values)."""
        with torch.no_grad():
            common, varying = self.parts(inputs)
            return common + torch.einsum("k,nkv->nv", weights, varying)


class MetaLearned:
    """A net from which a few steps along the gradient lead to that of a system: MAML, with second derivatives.

    Args:
        hidden: units of the net.
        step: how far one step of a system's own goes.
        seed: of every draw.

    Attributes:
        start: the net; empty before the training.
    """

    def __init__(self, hidden: int, step: float, seed: int) -> None:
        self.hidden, self.step, self.seed = hidden, step, seed
        self.start: Net = {}

    def train(
        self, inputs: torch.Tensor, targets: torch.Tensor, systems: torch.Tensor, steps: int, rate: float, inner: int
    ) -> None:
        """min over th of the mean over systems of E_q(th - a grad E_s(th)): E the mean squared error, by Adam.

        E_s is over some rows of a system and E_q over others; with several steps of its own each begins where the last
        one led.

        Args:
            inputs, targets, systems, steps, rate: as for `AffineSystems.train`.
            inner: a system's own steps.
        """
        net = fresh_net(inputs.shape[1], self.hidden, targets.shape[1], "maml", self.seed, inputs.device)
        own = _rows(systems)
        for one in net.values():
            one.requires_grad_(True)
        optimiser = torch.optim.Adam(list(net.values()), lr=rate)
        for step in range(steps):
            generator = torch_generator(self.seed, "maml", step)
            shown, asked = (_drawn(own, generator) for _ in range(2))
            # A copy for each system: what is summed over them has the gradient of each for its own copy.
            copies = {name: one.expand(len(own), *one.shape) for name, one in net.items()}
            for _ in range(inner):
                error = _errors(copies, inputs[shown], targets[shown]).sum()
                slopes = torch.autograd.grad(error, list(copies.values()), create_graph=True)
                moved = zip(copies.items(), slopes, strict=True)
                copies = {name: one - self.step * slope for (name, one), slope in moved}
            loss = _errors(copies, inputs[asked], targets[asked]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.start = {name: one.detach() for name, one in net.items()}

    def adapted(self, inputs: torch.Tensor, targets: torch.Tensor, steps: int) -> Net:
        """The net of a system of which some rows are known, after some steps from the start."""
        net = self.start
        for _ in range(steps):
            net = {name: one.detach().requires_grad_(True) for name, one in net.items()}
            error = (through(net, inputs) - targets).square().mean()
            slopes = torch.autograd.grad(error, list(net.values()))
            net = {name: one.detach() - self.step * g for (name, one), g in zip(net.items(), slopes, strict=True)}
        return net


def _errors(copies: Net, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each system's copy, shape (systems,); rows stand system by system."""
    count = len(copies["first"])
    given, wanted = (one.view(count, -1, one.shape[1]) for one in (inputs, targets))
    inner = torch.tanh(given @ copies["first"].mT + copies["first bias"].unsqueeze(1))
    found = inner @ copies["second"].mT + copies["second bias"].unsqueeze(1)
    return (found - wanted).square().flatten(1).mean(1)


def systems_of(domains: Sequence[str], parts: int, title: str) -> list[int]:
    """The number of the system that each window of the source is of.

    Args:
        domains: of the windows, in the order of time.
        parts: into which a source of one domain is cut.
        title: of the model, for errors.

    Raises:
        InputError: there are fewer windows than parts.
    """
    known = {name: number for number, name in enumerate(dict.fromkeys(domains))}
    if len(known) > 1:
        return [known[name] for name in domains]
    if len(domains) < parts:
        raise InputError(
            f"the source of {title} has {len(domains)} windows, expected {parts} or more",
            where="--set parts",
            fix="Give fewer parts, or a longer source.jsonl",
        )
    return [at * parts // len(domains) for at in range(len(domains))]


def fitted_weights(varying: torch.Tensor, left: torch.Tensor, ridge: float) -> torch.Tensor:
    """The weights w that minimise |left - w'V|^2 + l |w|^2, shape (factors,).

    Args:
        varying: V, shape (n, factors, values).
        left: what is to be explained, shape (n, values).
        ridge: l.
    """
    factors = varying.transpose(1, 2).reshape(-1, varying.shape[1]).double()
    square = factors.T @ factors + ridge * torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
    found: torch.Tensor = torch.linalg.solve(square, factors.T @ left.reshape(-1).double()).to(left.dtype)
    return found
