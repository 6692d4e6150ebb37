"""LAME: the predictions of a batch are corrected by its neighbours; no weight is changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from genepool.adaptation.adapter import AdapterOptions, Answered, Signals, StreamAdapter, StreamBatch
from genepool.adaptation.stream_model import Inputs

# As in the authors' code: what a probability is raised by before its logarithm, and when the bound counts as reached.
_LEAST, _REACHED = 1e-10, 1e-8


class LameOptions(AdapterOptions):
    """Options of LAME."""

    neighbours: int = Field(default=5, ge=1, description="Neighbours of an example that count; the authors' code.")
    steps: int = Field(default=100, ge=1, description="Iterations at most; the authors' code.")
    strength: float = Field(default=1.0, ge=0, description="Weight of the neighbours; the authors' code.")


class Lame(StreamAdapter):
    """Y <- softmax(-u + s K Y) until the bound stands, from u = -log p; K says who is a neighbour of whom.

    Neighbours are the nearest in the normalised features, by Euclidean distance; K is not symmetric.
    """

    name = "lame"
    source = "Boudiaf et al., arXiv:2201.05718; kNN affinity and defaults of the authors' code"
    when = "the labels of a batch are alike, and nothing may be changed. It loses where labels are shuffled"
    trains = "nothing"
    needs = frozenset({"features", "several examples"})
    order = "It gains where labels come sorted and loses where they are shuffled."
    Options = LameOptions

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        return self.look(batch.inputs)

    def look(self, inputs: Inputs) -> torch.Tensor:
        assert isinstance(self.options, LameOptions)
        with torch.no_grad():
            features, logits = self.model.features_and_logits(inputs)
            kernel = neighbours(torch.nn.functional.normalize(features, dim=-1), self.options.neighbours)
            unary = -(logits.softmax(-1) + _LEAST).log()
            return corrected(unary, self.options.strength * kernel, self.options.steps).cpu()

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        return Signals.all_alike(len(batch), kept=False)


def neighbours(points: torch.Tensor, count: int) -> torch.Tensor:
    """Who is among the nearest of whom, shape (n, n), 0 or 1; nobody is its own neighbour.

    Args:
        points: shape (n, width).
        count: of neighbours; all others where there are fewer.
    """
    distances = torch.cdist(points, points)
    distances.fill_diagonal_(-1)
    nearest = distances.topk(min(count + 1, len(points)), largest=False).indices[:, 1:]
    return torch.zeros_like(distances).scatter_(-1, nearest, 1.0)


def corrected(unary: torch.Tensor, kernel: torch.Tensor, steps: int) -> torch.Tensor:
    """The assignments that LAME's bound ends at, shape (n, classes).

    Args:
        unary: -log of the predictions, shape (n, classes).
        kernel: weights between examples, shape (n, n).
        steps: iterations at most.
    """
    found = (-unary).softmax(-1)
    last = float("inf")
    for step in range(steps):
        pairwise = kernel @ found
        found = (pairwise - unary).softmax(-1)
        energy = float((unary * found - pairwise * found + torch.special.xlogy(found, found.clamp_min(1e-20))).sum())
        if step > 1 and abs(energy - last) <= _REACHED * abs(last):
            break
        last = energy
    return found
