"""A mixture of Gaussians with full covariances, fitted by expectation and maximisation as scikit-learn does it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Of scikit-learn's GaussianMixture: what is added to variances, when the mean log-likelihood stands, how often at most.
_RIDGE, _TOLERANCE, _ROUNDS = 1e-6, 1e-3, 100
# Rounds of k-means that make the first means.
_MEANS = 25


@dataclass(frozen=True)
class MixedGaussians:
    """A mixture.

    Attributes:
        weights: (components,), which add up to 1.
        means: (components, dimensions).
        covariances: (components, dimensions, dimensions).
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def densities(self, rows: np.ndarray) -> np.ndarray:
        """The logarithm of weight times density of each component at each row, (rows, components)."""
        import numpy as np

        inverse, size = self._inverse, rows.shape[1]
        apart = np.einsum("kij,nkj->nki", inverse, rows[:, None, :] - self.means[None])
        scale = np.log(np.abs(np.diagonal(inverse, axis1=1, axis2=2))).sum(1)
        found: np.ndarray = np.log(self.weights) + scale - 0.5 * (size * np.log(2 * np.pi) + (apart**2).sum(2))
        return found

    @cached_property
    def _inverse(self) -> np.ndarray:
        """Of the lower Cholesky factor of each covariance."""
        import numpy as np

        found: np.ndarray = np.linalg.inv(np.linalg.cholesky(self.covariances))
        return found

    def log_likelihood(self, rows: np.ndarray) -> float:
        """The mean over the rows."""
        return float(_log_sums(self.densities(rows)).mean())

    def aic(self, rows: np.ndarray) -> float:
        """Akaike's information criterion: smaller is better."""
        count, size = self.means.shape
        free = float(count * (size * (size + 1) / 2 + size + 1) - 1)
        return 2 * free - 2 * len(rows) * self.log_likelihood(rows)


def fitted(rows: np.ndarray, start: MixedGaussians) -> MixedGaussians:
    """The mixture after expectation and maximisation in turn, until the likelihood of the rows stands.

    Args:
        rows: (rows, dimensions).
        start: where it begins.
    """
    mixture, before = start, float("-inf")
    for _ in range(_ROUNDS):
        densities = mixture.densities(rows)
        sums = _log_sums(densities)
        mixture = _maximised(rows, densities, sums)
        now = float(sums.mean())
        if abs(now - before) < _TOLERANCE:
            break
        before = now
    return mixture


def started(rows: np.ndarray, count: int, generator: np.random.Generator) -> MixedGaussians:
    """A mixture from k-means, whose first means are drawn far apart (k-means++).

    Args:
        rows: (rows, dimensions).
        count: of components.
        generator: draws the first means.
    """
    import numpy as np

    means = [rows[generator.integers(len(rows))]]
    for _ in range(count - 1):
        nearest = np.min([((rows - mean) ** 2).sum(1) for mean in means], axis=0)
        total = nearest.sum()
        means.append(rows[generator.choice(len(rows), p=nearest / total if total > 0 else None)])
    centres = np.array(means)
    for _ in range(_MEANS):
        belongs = ((rows[:, None, :] - centres[None]) ** 2).sum(2).argmin(1)
        moved = np.array([rows[belongs == at].mean(0) if (belongs == at).any() else centres[at] for at in range(count)])
        if np.allclose(moved, centres):
            break
        centres = moved
    shares = np.log(np.maximum(np.eye(count)[belongs], 1e-300))
    return _maximised(rows, shares, np.zeros(len(rows)))


def _maximised(rows: np.ndarray, densities: np.ndarray, sums: np.ndarray) -> MixedGaussians:
    """The mixture that the shares of the rows make."""
    import numpy as np

    shares = np.exp(densities - sums[:, None])
    # A component without rows keeps a little, as scikit-learn has it.
    counts = shares.sum(0) + 10 * np.finfo(float).eps
    means = shares.T @ rows / counts[:, None]
    apart = rows[None] - means[:, None, :]
    covariances = np.einsum("nk,kni,knj->kij", shares, apart, apart) / counts[:, None, None]
    return MixedGaussians(counts / counts.sum(), means, covariances + _RIDGE * np.eye(rows.shape[1]))


def _log_sums(densities: np.ndarray) -> np.ndarray:
    import numpy as np

    largest = densities.max(1)
    found: np.ndarray = largest + np.log(np.exp(densities - largest[:, None]).sum(1))
    return found
