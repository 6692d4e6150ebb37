"""Learning curves: what more examples or steps would still bring, from a run that is only partly done.

Error falls as a power of what was spent: e(n) = a + b n^g, or a + b (n + c)^g. Fitted by least squares from several
starts; intervals come from fitting again to resampled distances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool import seeding
from genepool.errors import InputError
from genepool.measure.intervals import CONFIDENCE, Interval

Floats = NDArray[np.float64]
CurveKind = Literal["fixed", "power", "shifted"]

# What g is where there are too few points to fit it: the rate of most estimates that average.
_FIXED_POWER = -0.5
_PARAMETERS: dict[CurveKind, int] = {"fixed": 2, "power": 3, "shifted": 4}
_POWERS = (-0.1, -0.3, -0.5, -1.0, -2.0)
_STEEPEST, _FLATTEST = -5.0, -0.01
_DRAWS = 200


@dataclass(frozen=True)
class StopAdvice:
    """Whether going on is worth it.

    Attributes:
        stop: whether the gain to be expected is surely below the threshold.
        gain: how much lower the error would be at the horizon than it is predicted to be now, with a 95% interval.
        threshold, now, horizon: what was asked.
    """

    stop: bool
    gain: Interval
    threshold: float
    now: float
    horizon: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "gain": self.gain._asdict()}


@dataclass(frozen=True)
class LearningCurve:
    """A fitted curve, e(n) = a + b (n + c)^g.

    Attributes:
        kind: "fixed" where g is given, "power", or "shifted" where c is fitted too.
        a: the error that no amount would go below.
        b, c, g: scale, shift (0 but for "shifted") and power.
        residual: root mean square distance of the points.
        points: how many it was fitted to.
    """

    kind: CurveKind
    a: float
    b: float
    c: float
    g: float
    residual: float
    points: int
    _drawn: tuple[tuple[float, float, float, float], ...]

    def __call__(self, n: float) -> float:
        """The error at n."""
        return float(self.a + self.b * (n + self.c) ** self.g)

    def predict(self, n: float) -> Interval:
        """The error at n with a 95% interval of the curve, as far as its form holds."""
        return self._interval(self(n), lambda a, b, c, g: a + b * (n + c) ** g)

    def gain(self, now: float, horizon: float) -> Interval:
        """How much the error falls from `now` to `horizon`, with a 95% interval."""
        if not 0 < now < horizon:
            raise InputError(f"the horizon must be above {now}, got {horizon}", fix="Give a larger horizon")
        return self._interval(self(now) - self(horizon), lambda _a, b, c, g: b * ((now + c) ** g - (horizon + c) ** g))

    def advice(self, now: float, horizon: float, threshold: float) -> StopAdvice:
        """Stop when even the upper end of the gain's interval is below the threshold."""
        gain = self.gain(now, horizon)
        return StopAdvice(gain.hi < threshold, gain, threshold, now, horizon)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        names = ("kind", "a", "b", "c", "g", "residual", "points")
        return {name: getattr(self, name) for name in names}

    def _interval(self, value: float, of: Callable[[float, float, float, float], float]) -> Interval:
        drawn = np.array([of(*parameters) for parameters in self._drawn])
        tail = 100 * (1 - CONFIDENCE) / 2
        lo, hi = np.percentile(drawn, [tail, 100 - tail])
        return Interval(value, min(float(lo), value), max(float(hi), value))


def learning_curve(
    sizes: ArrayLike, errors: ArrayLike, *, kind: CurveKind | None = None, seed: int = 0
) -> LearningCurve:
    """Fits a learning curve.

    Args:
        sizes: examples or steps spent, above 0, shape (n,).
        errors: what was measured there, such as one minus the score, not below 0, shape (n,).
        kind: "fixed" (g = -0.5), "power" or "shifted"; when None, "power" with five sizes or more, else "fixed".
        seed: of the resampling.

    Raises:
        InputError: fewer sizes than the curve has parameters and one more, or numbers out of range.
    """
    spent, seen = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if spent.ndim != 1 or spent.shape != seen.shape:
        raise InputError(
            f"got errors of shape {seen.shape}, expected {spent.shape}", fix="Give one error for each size"
        )
    if not (np.isfinite(spent).all() and np.isfinite(seen).all() and (spent > 0).all() and (seen >= 0).all()):
        raise InputError("sizes must be above 0 and errors at least 0", fix="Leave that point out")
    different = len(np.unique(spent))
    kind = kind or ("power" if different >= 5 else "fixed")
    if different <= _PARAMETERS[kind]:
        needed = _PARAMETERS[kind] + 1
        raise InputError(
            f"got {different} different sizes, expected {needed} or more",
            fix=f"A '{kind}' curve needs {needed} or more",
        )
    # Fitted with sizes from 0 to 1, so that powers stay within what numbers hold.
    largest = float(spent.max())
    scaled = spent / largest
    fitted = _fit(scaled, seen, kind, None)
    curve = fitted[0] + fitted[1] * (scaled + fitted[2]) ** fitted[3]
    # Fitted distances are shorter than true ones by the parameters spent on them.
    misses = (seen - curve) * np.sqrt(len(spent) / (len(spent) - _PARAMETERS[kind]))
    generator = seeding.numpy_generator(seed, "learning curve")
    drawn = []
    for _ in range(_DRAWS):
        # Wild bootstrap: each distance keeps its place, since errors scatter more where little was spent.
        again = np.maximum(curve + misses * generator.choice([-1.0, 1.0], size=len(misses)), 0.0)
        drawn.append(_unscaled(_fit(scaled, again, kind, fitted), largest))
    a, b, c, g = _unscaled(fitted, largest)
    residual = float(np.sqrt(np.square(seen - curve).mean()))
    return LearningCurve(kind, a, b, c, g, residual, len(spent), tuple(drawn))


Parameters = tuple[float, float, float, float]


def _unscaled(fitted: Parameters, largest: float) -> Parameters:
    a, b, c, g = fitted
    return a, b * largest**-g, c * largest, g


def _fit(sizes: Floats, errors: Floats, kind: CurveKind, start: Parameters | None) -> Parameters:
    """(a, b, c, g) by least squares: for a given g and c, a and b are a non-negative linear fit."""
    from scipy.optimize import minimize, nnls

    def linear(g: float, c: float) -> tuple[Floats, float]:
        design = np.stack([np.ones(len(sizes)), (sizes + c) ** g], axis=1)
        # Columns of one length, so that a steep power does not drown the constant.
        lengths = np.linalg.norm(design, axis=0)
        weights, miss = nnls(design / lengths, errors)
        return weights / lengths, float(miss)

    if kind == "fixed":
        (a, b), _ = linear(_FIXED_POWER, 0.0)
        return float(a), float(b), 0.0, _FIXED_POWER
    shifted = kind == "shifted"
    begins = [(start[3], start[2])] if start is not None else [(g, 0.1 * shifted) for g in _POWERS]
    bounds = [(_STEEPEST, _FLATTEST), (0.0, 1.0)][: 1 + shifted]
    best: tuple[float, float, float] | None = None
    for g, c in begins:
        found = minimize(
            lambda x: linear(float(x[0]), float(x[1]) if shifted else 0.0)[1],
            [g, c][: 1 + shifted],
            bounds=bounds,
            method="Nelder-Mead",
        )
        candidate = (float(found.fun), float(found.x[0]), float(found.x[1]) if shifted else 0.0)
        best = candidate if best is None or candidate[0] < best[0] else best
    assert best is not None
    _, g, c = best
    (a, b), _ = linear(g, c)
    return float(a), float(b), c, g
