"""Which of several models answers an input best, told from what each can do: the ranker of capability routing.

A model is a vector: its accuracy on each of some tasks. The ranker reads the base's features of an input, says how much
of each task is in it, and so what accuracy to expect of each model; a model that comes later needs its vector alone.
As Model-SAT (Zhang et al. 2025, arXiv:2502.17282), with linear maps of features in place of a small language model that
reads the vector as text. Used by the composer `model_sat`. Uses `nearest_means` and training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genepool.composition.composition import Saved
from genepool.composition.routing.nearest_means import (
    DECLINED,
    FOLDS,
    NearestMeans,
    conformal_limit,
    fold_numbers,
    linear_discriminant,
)
from genepool.training import Optimisation, Optimiser, fit


@dataclass(frozen=True)
class RankerFit:
    """How a ranker is trained.

    Attributes:
        steps: of Adam, on all inputs.
        learning_rate: its first step size, which falls to 0 along a line.
        decay: AdamW's weight decay.
        temperature: of the softmax over the expected accuracies of the models.
    """

    steps: int
    learning_rate: float
    decay: float
    temperature: float


@dataclass(frozen=True)
class CapabilityRanker:
    """What each model is expected to get right of an input.

    Attributes:
        capabilities: accuracy of each model on each task, shape (models, tasks); the base is the last model.
        weight, bias: from features to how much of each task is in an input, (tasks, width) and (tasks,).
        known: the means of the tasks, which decline inputs that are like none of them.
        least: the expected accuracy of the best model below which an input is declined; None declines nothing.
    """

    capabilities: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    known: NearestMeans
    least: float | None = None

    @property
    def width(self) -> int:
        """How many features an input has."""
        return self.weight.shape[1]

    def expected(self, features: torch.Tensor) -> torch.Tensor:
        """The expected accuracy of each model on each input, from 0 to 1, float64, shape (inputs, models).

        Args:
            features: shape (inputs, width).
        """
        shares = (features.double() @ self.weight.double().T + self.bias.double()).softmax(-1)
        return shares @ self.capabilities.double().T

    def chosen(self, features: torch.Tensor) -> torch.Tensor:
        """The model that answers each input, `DECLINED` where none is worth it or the input is like none that is known.

        Of models that are expected to do equally well, the base is chosen, then the first one.
        """
        expected = self.expected(features)
        best = expected.amax(1)
        equal = expected >= best[:, None] - 1e-9
        first = torch.where(equal[:, -1], expected.shape[1] - 1, equal.int().argmax(1))
        unlike = self.known.chosen(features) == DECLINED
        return torch.where(unlike | (best < (-1 if self.least is None else self.least)), DECLINED, first)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that is saved of it, by name."""
        found = {"capabilities": self.capabilities, "weight": self.weight, "bias": self.bias, **self.known.tensors()}
        return found if self.least is None else {**found, "least": torch.tensor([self.least])}

    @classmethod
    def restored(cls, saved: Saved, models: int, tasks: int) -> CapabilityRanker:
        """What `tensors` gave, from a saved composition.

        Raises:
            InputError: a tensor is missing or has another shape.
        """
        known = NearestMeans.restored(saved, tasks, whitened=True)
        weight, bias = saved.tensor("weight", (tasks, known.width)), saved.tensor("bias", (tasks,))
        least = float(saved.tensor("least", (1,))) if "least" in saved.tensors else None
        return cls(saved.tensor("capabilities", (models, tasks)), weight, bias, known, least)


def listwise_loss(expected: torch.Tensor, right: torch.Tensor, temperature: float) -> torch.Tensor:
    """Listwise cross-entropy: all models that are right share the target of an input equally.

    Args:
        expected: what is expected of each model, shape (inputs, models).
        right: the score of each, from 0 to 1, not all 0 for any input, shape (inputs, models).
        temperature: of the softmax over models.
    """
    target = right / right.sum(1, keepdim=True)
    return -(target * (expected / temperature).log_softmax(1)).sum(1).mean()


def trained_ranker(
    features: np.ndarray, right: np.ndarray, capabilities: np.ndarray, known: NearestMeans, how: RankerFit
) -> CapabilityRanker:
    """A ranker trained on all inputs, which declines nothing by its expectation.

    It begins as the discriminant analysis of the tasks: then an expectation is the mean accuracy of a model over the
    tasks, weighted by how likely each is for the input. Few examples are enough for that, and training goes on there.

    Args:
        features: shape (inputs, width), float64.
        right: score of each model on each input, from 0 to 1, shape (inputs, models).
        capabilities: shape (models, tasks).
        known: see `CapabilityRanker`; of discriminant analysis.
        how: the settings.
    """
    # Where all models do equally well nothing can be learned about which to ask.
    telling = right.max(1) > right.min(1)
    # Learned on features of unit variance, so that one learning rate serves every base; folded into the map after.
    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 1e-6 * np.abs(features).max(initial=1e-30), spread, 1.0)
    scaled = torch.from_numpy((features - mean) / spread).float()[torch.from_numpy(telling)]
    target = torch.from_numpy(right[telling]).float()
    able = torch.from_numpy(capabilities).float()
    assert known.whitening is not None
    begun = known.means.double() @ known.whitening.double().T
    level = known.log_priors.double() - known.means.double().square().sum(1) / 2
    learned = {
        "weight": torch.nn.Parameter((begun * torch.from_numpy(spread)).float()),
        "bias": torch.nn.Parameter((level + begun @ torch.from_numpy(mean)).float()),
    }

    def gradients(_step: int) -> float:
        with torch.enable_grad():
            shares = (scaled @ learned["weight"].T + learned["bias"]).softmax(-1)
            loss = listwise_loss(shares @ able.T, target, how.temperature)
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    if len(target):
        fit(Optimiser(learned, Optimisation(how.steps, how.learning_rate, weight_decay=how.decay)), gradients)
    weight = learned["weight"].detach().double() / torch.from_numpy(spread)
    bias = learned["bias"].detach().double() - weight @ torch.from_numpy(mean)
    return CapabilityRanker(able, weight.float().contiguous(), bias.float(), known)


def judged_ranker(
    features: np.ndarray,
    tasks: np.ndarray,
    right: np.ndarray,
    capabilities: np.ndarray,
    known: NearestMeans,
    how: RankerFit,
    decline: float,
) -> tuple[CapabilityRanker, dict[str, Any]]:
    """A ranker with a limit that declines a share of inputs like those it learned from, and how it did.

    Every input is judged by a ranker that was trained on the others (see `judged_means`).

    Args:
        features, right, capabilities, known, how: as for `trained_ranker`.
        tasks: of each input, shape (inputs,).
        decline: the share, from 0 on, below 1.
    """
    folds = fold_numbers(tasks)
    best = np.zeros(len(tasks))
    chosen = np.zeros(len(tasks), dtype=np.int64)
    for fold in range(FOLDS):
        held = folds == fold
        if held.any():
            others = linear_discriminant(features[~held], tasks[~held])
            ranker = trained_ranker(features[~held], right[~held], capabilities, others, how)
            asked = torch.from_numpy(features[held])
            best[held] = ranker.expected(asked).amax(1).numpy()
            chosen[held] = ranker.chosen(asked).numpy()
    whole = trained_ranker(features, right, capabilities, known, how)
    highest = conformal_limit(-best, decline)
    least = None if highest is None else -highest
    ranker = CapabilityRanker(whole.capabilities, whole.weight, whole.bias, known, least)
    kept = right[np.arange(len(tasks)), chosen]
    return ranker, {
        "score": round(float(kept.mean()), 6),
        "best_possible": round(float(right.max(1).mean()), 6),
        "chosen": np.bincount(chosen, minlength=right.shape[1]).tolist(),
    }
