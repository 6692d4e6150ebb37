"""A Gaussian process with a constant times an RBF kernel and known noise, whose kernel maximises the likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Between which numbers the variance and the length of the kernel are looked for (MBTL, authors' code).
VARIANCES, LENGTHS = (1e-3, 1e3), (1e-2, 1e2)
# Starts that are drawn beside the first one, which is 1 and 1 (MBTL, authors' code).
_RESTARTS = 9


@dataclass(frozen=True)
class GaussianProcess:
    """A process of one input whose mean is 0 before anything is known.

    Attributes:
        places: where it was observed, (observations,).
        variance: of the kernel.
        length: of the kernel.
        noise: standard deviation of an observation.
        weights: of the observations in the mean, (observations,).
        inverse: of the covariance of the observations.
    """

    places: np.ndarray
    variance: float
    length: float
    noise: float
    weights: np.ndarray
    inverse: np.ndarray

    def predict(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at other places, each (places,)."""
        import numpy as np

        across = self.variance * _likeness(places, self.places, self.length)
        left = self.variance - np.einsum("ni,ij,nj->n", across, self.inverse, across)
        return across @ self.weights, np.sqrt(np.maximum(left, 0))


def fit_process(
    places: np.ndarray, values: np.ndarray, noise: float, generator: np.random.Generator
) -> GaussianProcess:
    """The process whose kernel makes the observations most likely.

    Args:
        places: where was observed, (observations,).
        values: what was, (observations,).
        noise: standard deviation of an observation.
        generator: draws the starts of the search.
    """
    import numpy as np
    from scipy.optimize import minimize

    bounds = np.log([VARIANCES, LENGTHS])

    def price(logs: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = log_likelihood(places, values, noise, *np.exp(logs))
        return -value, -slope

    starts = [np.zeros(2), *(generator.uniform(bounds[:, 0], bounds[:, 1]) for _ in range(_RESTARTS))]
    found = [minimize(price, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
    variance, length = np.exp(min(found, key=lambda one: float(one.fun)).x).tolist()
    inverse = np.linalg.inv(_covariance(places, noise, variance, length))
    return GaussianProcess(places, variance, length, noise, inverse @ values, inverse)


def log_likelihood(
    places: np.ndarray, values: np.ndarray, noise: float, variance: float, length: float
) -> tuple[float, np.ndarray]:
    """Of the observations, and its slope by the logarithms of variance and length, (2,)."""
    import numpy as np

    covariance = _covariance(places, noise, variance, length)
    inverse = np.linalg.inv(covariance)
    weights = inverse @ values
    kernel = variance * _likeness(places, places, length)
    by_length = kernel * ((places[:, None] - places[None]) / length) ** 2
    value = -0.5 * (values @ weights + np.linalg.slogdet(covariance)[1] + len(values) * np.log(2 * np.pi))
    outer = np.outer(weights, weights) - inverse
    return float(value), np.array([0.5 * (outer * part).sum() for part in (kernel, by_length)])


def _covariance(places: np.ndarray, noise: float, variance: float, length: float) -> np.ndarray:
    import numpy as np

    found: np.ndarray = variance * _likeness(places, places, length) + noise**2 * np.eye(len(places))
    return found


def _likeness(places: np.ndarray, others: np.ndarray, length: float) -> np.ndarray:
    import numpy as np

    found: np.ndarray = np.exp(-0.5 * ((places[:, None] - others[None]) / length) ** 2)
    return found
