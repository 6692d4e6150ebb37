"""A small network that predicts the risk of examples from their parameters, with an idea of how unsure it is.

A set of (parameters, risk) is encoded into a normal distribution over a code; a decoder makes a risk of parameters and
a code. It learns online, the last posterior being the next prior. Uses torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class RiskLearner(nn.Module):
    """Encoder and decoder (MPTS, authors' code: two hidden layers before the code, three after it, all of one width).

    Args:
        parameters: dimensions of an example's parameters.
        hidden: width of the layers.
        code: dimensions of the code.
        draws: codes that are drawn where something is predicted.
        rate: Adam's learning rate.
    """

    def __init__(self, parameters: int, hidden: int, code: int, draws: int, rate: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(parameters + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, code)
        )
        self.before_code = nn.Linear(code, code)
        self.mean, self.deviation = nn.Linear(code, code), nn.Linear(code, code)
        self.decoder = nn.Sequential(
            nn.Linear(parameters + code, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1),
        )  # fmt: skip
        self.draws = draws
        self.prior: Any = torch.distributions.Normal(torch.zeros(code), torch.ones(code))
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None
        self.adam = torch.optim.Adam(self.parameters(), rate)

    def posterior(self, points: torch.Tensor, risks: torch.Tensor) -> Any:
        """The distribution of the code that a set shows.

        Args:
            points: (examples, parameters).
            risks: (examples,).
        """
        each = self.encoder(torch.cat([points, risks[:, None]], dim=1))
        hidden = torch.relu(self.before_code(each.mean(0)))
        return torch.distributions.Normal(self.mean(hidden), 0.1 + 0.9 * torch.sigmoid(self.deviation(hidden)))

    def risks(self, points: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """The risk of each point under each code, (codes, points)."""
        both = torch.cat([points.expand(len(codes), -1, -1), codes[:, None].expand(-1, len(points), -1)], dim=2)
        found: torch.Tensor = self.decoder(both)[..., 0]
        return found

    def loss(self, points: torch.Tensor, risks: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The squared error of the mean over codes, summed over examples, plus KL(posterior, prior); the posterior.

        Args:
            points, risks: the examples.
            noise: standard normal, (draws, code).
        """
        posterior = self.posterior(points, risks)
        predicted = self.risks(points, posterior.loc + posterior.scale * noise).mean(0)
        apart = torch.distributions.kl_divergence(posterior, self.prior).sum()
        return ((predicted - risks) ** 2).sum() + apart, posterior

    def learn(self, points: torch.Tensor, risks: torch.Tensor, generator: torch.Generator) -> None:
        """One step of Adam on the examples of a training step."""
        with torch.enable_grad():
            self.adam.zero_grad()
            loss, posterior = self.loss(points, risks, self._noise(generator))
            loss.backward()  # type: ignore[no-untyped-call]
            self.adam.step()
        self.prior = torch.distributions.Normal(posterior.loc.detach(), posterior.scale.detach())
        self.last = (points, risks)

    def predict(self, points: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the risk of each point over codes, each (points,)."""
        with torch.no_grad():
            known = self.prior if self.last is None else self.posterior(*self.last)
            found = self.risks(points, known.loc + known.scale * self._noise(generator))
            return found.mean(0), found.std(0)

    def _noise(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(self.draws, len(self.prior.loc), generator=generator)
