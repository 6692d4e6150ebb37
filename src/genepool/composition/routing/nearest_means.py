"""The two routers that every other one has to beat: each input goes to the class whose mean is nearest to its features.

`nearest_centroid` measures the plain distance, `linear_discriminant` the one of linear discriminant analysis. An input
that is far from all means is declined; how far is far is read off inputs that the means were not made of. Used by the
composers `centroid_routing`, `lda_routing` and `model_sat`. Uses numpy and torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genepool.composition.composition import Saved
from genepool.errors import InputError

#: Parts of the inputs; each is judged by means that were made of the others.
FOLDS = 4
#: What a declined input is given in place of a class.
DECLINED = -1
#: Features (inputs, width) and the class of each -> means without a limit.
MakeMeans = Callable[[np.ndarray, np.ndarray], "NearestMeans"]


@dataclass(frozen=True)
class NearestMeans:
    """A mean for each class, in coordinates in which the distance is the plain one.

    Attributes:
        means: shape (classes, coordinates), float32.
        whitening: features times it are these coordinates, shape (width, coordinates), float32; None where features
            are the coordinates.
        log_priors: of the classes, shape (classes,), float32; equal ones change nothing.
        limit: squared distance to the chosen mean above which an input is declined; None declines nothing.
    """

    means: torch.Tensor
    whitening: torch.Tensor | None
    log_priors: torch.Tensor
    limit: float | None = None

    @property
    def width(self) -> int:
        """How many features an input has."""
        return self.means.shape[1] if self.whitening is None else self.whitening.shape[0]

    def nearest(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The class of each input, shape (inputs,), and the squared distance to its mean, float64, shape (inputs,).

        Args:
            features: shape (inputs, width).
        """
        # In float64: distances are small differences of large sums.
        placed = features.double()
        if self.whitening is not None:
            placed = placed @ self.whitening.double()
        distances = (placed[:, None] - self.means.double()).square().sum(-1)
        chosen = (self.log_priors.double() - distances / 2).argmax(1)
        return chosen, distances.gather(1, chosen[:, None]).squeeze(1)

    def chosen(self, features: torch.Tensor) -> torch.Tensor:
        """The class of each input, `DECLINED` where it is far from all means; shape (inputs,)."""
        chosen, distances = self.nearest(features)
        return chosen if self.limit is None else torch.where(distances > self.limit, DECLINED, chosen)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that is saved of it, by name."""
        found = {"means": self.means, "log_priors": self.log_priors}
        if self.whitening is not None:
            found["whitening"] = self.whitening
        if self.limit is not None:
            found["limit"] = torch.tensor([self.limit])
        return found

    @classmethod
    def restored(cls, saved: Saved, classes: int, *, whitened: bool) -> NearestMeans:
        """What `tensors` gave, from a saved composition.

        Args:
            saved: what was saved.
            classes: how many there are.
            whitened: whether it has coordinates of its own.

        Raises:
            InputError: a tensor is missing or has another shape.
        """
        means, priors = saved.tensor("means", (classes, None)), saved.tensor("log_priors", (classes,))
        whitening = saved.tensor("whitening", (None, means.shape[1])) if whitened else None
        limit = float(saved.tensor("limit", (1,))) if "limit" in saved.tensors else None
        return cls(means, whitening, priors, limit)


def nearest_centroid(features: np.ndarray, classes: np.ndarray) -> NearestMeans:
    """Means at the plain distance.

    Args:
        features: shape (inputs, width).
        classes: from 0 on, each there at least once, shape (inputs,).
    """
    means = _means(features, classes)
    return NearestMeans(_float32(means), None, torch.zeros(len(means)))


def linear_discriminant(features: np.ndarray, classes: np.ndarray) -> NearestMeans:
    """Linear discriminant analysis: the distance by the covariance within classes, shrunk as Ledoit and Wolf do.

    It chooses as scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`.

    Args:
        features, classes: as for `nearest_centroid`.
    """
    means = _means(features, classes)
    shares = np.bincount(classes) / len(classes)
    within = sum(share * shrunk_covariance(features[classes == number]) for number, share in enumerate(shares))
    values, directions = np.linalg.eigh(within)
    # Directions in which nothing varies within a class tell nothing that could be measured.
    kept = values > np.finfo(float).eps * len(values) * max(float(values[-1]), 0.0)
    whitening = directions[:, kept] / np.sqrt(values[kept])
    return NearestMeans(_float32(means @ whitening), _float32(whitening), _float32(np.log(shares)))


def shrunk_covariance(features: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf's covariance of features that are scaled to unit variance for it, shape (width, width).

    As scikit-learn's `shrinkage="auto"` has it (Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4).

    Args:
        features: shape (inputs, width).
    """
    count, width = features.shape
    centred = features - features.mean(0)
    scale = centred.std(0)
    # A feature that does not vary is left as it is.
    scale[scale <= 10 * np.finfo(float).eps * np.abs(features).max(initial=1.0)] = 1.0
    scaled = centred / scale
    plain = scaled.T @ scaled / count
    mean_variance = np.trace(plain) / width
    spread = (np.square(plain).sum() - width * mean_variance**2) / width
    noise = (np.square(np.square(scaled).sum(1)).sum() / count - np.square(plain).sum()) / (count * width)
    share = 0.0 if noise <= 0 else 1.0 if noise >= spread else noise / spread
    shrunk = (1 - share) * plain + share * mean_variance * np.eye(width)
    return np.asarray(scale[:, None] * shrunk * scale)


@dataclass(frozen=True)
class JudgedMeans:
    """Means, and how others made of a part of the inputs did on the rest.

    Attributes:
        means: made of all inputs, with a limit.
        chosen: the class of each input by means that were not made of it, before any is declined; shape (inputs,).
        distances: the squared distance to the chosen mean, shape (inputs,).
    """

    means: NearestMeans
    chosen: np.ndarray
    distances: np.ndarray


def judged_means(make: MakeMeans, features: np.ndarray, classes: np.ndarray, decline: float) -> JudgedMeans:
    """Means of all inputs, whose limit declines a share of inputs like them.

    Every input is judged by means that were made of the other `FOLDS - 1` parts; the limit is the conformal quantile of
    these distances (Vovk et al. 2005). Where there are too few inputs for it, nothing is declined.

    Args:
        make: what makes means.
        features, classes: as for `nearest_centroid`, two or more inputs of each class.
        decline: the share, from 0 on, below 1.
    """
    folds = fold_numbers(classes)
    chosen, distances = np.zeros(len(classes), dtype=np.int64), np.zeros(len(classes))
    for fold in range(FOLDS):
        held = folds == fold
        if held.any():
            found, far = make(features[~held], classes[~held]).nearest(torch.from_numpy(features[held]))
            chosen[held], distances[held] = found.numpy(), far.numpy()
    whole = make(features, classes)
    limit = conformal_limit(distances, decline)
    return JudgedMeans(NearestMeans(whole.means, whole.whitening, whole.log_priors, limit), chosen, distances)


def fold_numbers(classes: np.ndarray) -> np.ndarray:
    """The part that each input is in: the inputs of a class are dealt out in turn, so none loses its only two."""
    folds = np.zeros(len(classes), dtype=np.int64)
    for number in np.unique(classes):
        places = np.flatnonzero(classes == number)
        folds[places] = np.arange(len(places)) % FOLDS
    return folds


def conformal_limit(values: np.ndarray, share: float) -> float | None:
    """What a further value of the same kind exceeds with at most a probability of `share`.

    Args:
        values: shape (count,).
        share: from 0 on, below 1.

    Returns:
        The limit; None where none is low enough to be known, and for a share of 0.
    """
    place = math.ceil((len(values) + 1) * (1 - share))
    return None if share <= 0 or place > len(values) else float(np.float32(np.sort(values)[place - 1]))


def check_routable(features: np.ndarray, names: Mapping[int, str], classes: np.ndarray, composer: str) -> None:
    """Refuses inputs that no mean can be made of.

    Args:
        features: shape (inputs, width).
        names: of the classes, by number.
        classes: shape (inputs,).
        composer: for errors.

    Raises:
        InputError: a feature is NaN or infinite, or a class has a single input.
    """
    if not np.isfinite(features).all():
        raise InputError(
            "the base's hidden states are NaN or infinite, so nothing can be routed by them",
            where=composer,
            fix="Compute with --dtype float32",
        )
    for number, name in names.items():
        if int((classes == number).sum()) < 2:
            raise InputError(
                "has a single input to learn from, at least 2 are needed", where=name, fix="Give more --examples"
            )


def told_of(judged: np.ndarray, classes: np.ndarray, names: Mapping[int, str], declined: np.ndarray) -> dict[str, Any]:
    """How inputs were routed by means that were not made of them, as plain data.

    Args:
        judged: the class that each was sent to, shape (inputs,).
        classes: its own.
        names: of the classes, by number.
        declined: whether it was declined, shape (inputs,).
    """
    return {
        "right": round(float((judged == classes).mean()), 6),
        "sent_to": {name: int(((judged == number) & ~declined).sum()) for number, name in names.items()},
        "declined": int(declined.sum()),
    }


def _means(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.stack([features[classes == number].mean(0) for number in range(int(classes.max()) + 1)])


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values)).float().contiguous()
