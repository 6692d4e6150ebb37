"""PassUntil: tasks solved too rarely to see in one answer an example, measured by sampling until they show.

Hu et al., "Predicting Emergent Abilities with Infinite Resolution Evaluation", 2023. Sampling goes on until r answers
pass; how long that took is a finer measure than a share of zeros. The rate over model sizes follows exp(-c N^-a).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from genepool.errors import InputError
from genepool.measure.intervals import CONFIDENCE, Interval

if TYPE_CHECKING:
    from genepool.tasks import Example, Ledger, Model, Task

# A score from here on passes.
_PASSED = 0.5
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class PassRate:
    """How likely one answer passes.

    Attributes:
        passes: answers that passed.
        draws: answers that were sampled.
        censored: whether sampling ended before it had the passes it wanted.
        rate: (r - 1) / (K - 1), the unbiased estimate with the least variance when sampling stops at the r-th pass
            (Haldane 1945), where r is 2 or more; r / K, the likeliest, for r = 1, which is too high on average; passes
            over draws when censored, which is too low at most by what was not waited for.
        interval: exact 95% ends, from the binomial tails of having needed as many draws.
    """

    passes: int
    draws: int
    censored: bool
    rate: float
    interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        ends = {"lo": self.interval.lo, "hi": self.interval.hi}
        return {"passes": self.passes, "draws": self.draws, "censored": self.censored, "rate": self.rate, **ends}


def pass_rate(passes: int, draws: int, *, censored: bool = False) -> PassRate:
    """The rate from what was counted.

    Args:
        passes: answers that passed; where not `censored`, sampling stopped at the last of them.
        draws: answers sampled.
        censored: sampling stopped for another reason, such as a budget.

    Raises:
        InputError: there are no draws, more passes than draws, or no pass though sampling was to stop at one.
    """
    from scipy.stats import beta

    if draws < 1 or not 0 <= passes <= draws:
        raise InputError(f"got {passes} passes in {draws} draws, expected at least one draw", fix="Draw at least once")
    if not censored and passes < 1:
        raise InputError("got no pass, and sampling stopped at one", fix="Mark it as censored")
    low = float(beta.ppf(_TAIL, passes, draws - passes + 1)) if passes else 0.0
    if censored:
        high = float(beta.ppf(1 - _TAIL, passes + 1, draws - passes)) if passes < draws else 1.0
        rate = passes / draws
    else:
        # At most r - 1 passes in the draws before the last.
        high = float(beta.ppf(1 - _TAIL, passes, draws - passes)) if passes < draws else 1.0
        rate = (passes - 1) / (draws - 1) if passes > 1 else passes / draws
    return PassRate(passes, draws, censored, rate, Interval(rate, min(low, rate), max(high, rate)))


def pass_until(attempt: Callable[[int], bool], *, passes: int = 2, max_draws: int = 100_000) -> PassRate:
    """Samples until so many attempts pass.

    Args:
        attempt: gets the number of the draw, from 0, and tells whether it passed.
        passes: r; 2 is the least with an unbiased estimate.
        max_draws: the budget.

    Raises:
        InputError: a count below 1.
    """
    _check_counts(passes, max_draws)
    found = 0
    for draw in range(max_draws):
        found += bool(attempt(draw))
        if found == passes:
            return pass_rate(found, draw + 1)
    return pass_rate(found, max_draws, censored=True)


def pass_until_task(
    model: Model,
    task: Task,
    *,
    ledger: Ledger,
    split: str = "test",
    passes: int = 2,
    max_draws: int = 1000,
    limit: int | None = None,
    batch_size: int = 128,
    dtype: str = "float32",
) -> dict[str, PassRate]:
    """Samples every example of a task until it passes so often; every answer is kept in the ledger.

    Args:
        model: who is asked.
        task: its temperature must be above 0. The d-th draw has the task's seed plus d, so that a run that was stopped
            goes on from the ledger.
        ledger: where outcomes come from and go to.
        split: which examples.
        passes: r, per example.
        max_draws: the budget, per example.
        limit: only the first so many examples.
        batch_size: examples per batch.
        dtype: what the model computes in.

    Returns:
        Example id -> its rate.

    Raises:
        InputError: the task or the model always gives the same answer, or a count is below 1.
    """
    from genepool import progress
    from genepool.tasks import Task as Asked
    from genepool.tasks import evaluate

    _check_counts(passes, max_draws)
    if task.asker is None and task.settings.temperature == 0:
        raise InputError(
            "sampling at temperature 0 gives the same answer every time", where=task.name, fix="Raise the temperature"
        )
    if task.asker is None and "text" not in model.can:
        raise InputError(
            f"{model.kind} gives the same answer every time",
            where=model.name,
            fix="Name a model that samples its answers",
        )
    waiting: list[Example] = list(task.examples(split))[:limit]
    counts = {example.id: 0 for example in waiting}
    found: dict[str, PassRate] = {}
    with progress.bar("sampling until they pass", len(waiting), "examples") as bar:
        for draw in range(max_draws):
            if not waiting:
                break
            bar.note(f"draw {draw + 1} of {max_draws} at most")
            asked = Asked(task.name, {"all": waiting}, task.settings, task.asker, task.version)
            with progress.silenced():
                table = evaluate(
                    [model],
                    [asked],
                    ledger=ledger,
                    seed=task.settings.seed + draw,
                    batch_size=batch_size,
                    dtype=dtype,
                )
            for example, outcome in zip(waiting, table.outcomes(table.models[0], task.name), strict=True):
                counts[example.id] += outcome.score >= _PASSED
                if counts[example.id] == passes:
                    found[example.id] = pass_rate(passes, draw + 1)
                    bar.advance()
            waiting = [example for example in waiting if example.id not in found]
        for example in waiting:
            found[example.id] = pass_rate(counts[example.id], max_draws, censored=True)
            bar.advance()
    return {name: found[name] for name in counts}


def _check_counts(passes: int, max_draws: int) -> None:
    if passes < 1 or max_draws < passes:
        raise InputError(
            f"got {passes} passes in at most {max_draws} draws, expected 1 pass or more and at least as many draws"
        )


# ---------------------------------------------------------------------- over sizes


@dataclass(frozen=True)
class TaskScaling:
    """The task scaling law: rate(N) = exp(-c N^-a), a line in log N and log(-log rate).

    Attributes:
        a, c: its parameters; the task grows with size where `a` is above 0.
        sizes, rates: what it was fitted to.
        residual: root mean square distance from the line, in log(-log rate).
    """

    a: float
    c: float
    sizes: tuple[float, ...]
    rates: tuple[float, ...]
    residual: float
    _covariance: tuple[tuple[float, float], tuple[float, float]]
    _spread: float

    def __call__(self, size: float) -> float:
        """The rate that the law gives a model of this size."""
        return math.exp(-self.c * size**-self.a)

    def predict(self, size: float) -> Interval:
        """The rate at a size with a 95% interval for what would be measured there, as far as the law holds."""
        if not size > 0:
            raise InputError(f"the size must be above 0, got {size}")
        place = np.array([1.0, math.log(size)])
        centre = math.log(self.c) - self.a * math.log(size)
        half = self._spread * math.sqrt(float(place @ np.array(self._covariance) @ place))
        # exp(-exp(y)) falls in y, so the upper end of the line is the lower end of the rate.
        return Interval(self(size), math.exp(-math.exp(centre + half)), math.exp(-math.exp(centre - half)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        points = [{"size": size, "rate": rate} for size, rate in zip(self.sizes, self.rates, strict=True)]
        return {"a": self.a, "c": self.c, "residual": self.residual, "points": points}


def task_scaling(sizes: ArrayLike, rates: ArrayLike, errors: ArrayLike | None = None) -> TaskScaling:
    """Fits the task scaling law.

    Args:
        sizes: of the models, such as parameters or tokens, shape (n,).
        rates: pass rates, above 0 and below 1, shape (n,).
        errors: standard errors of the rates, shape (n,). With them points count by their precision, and intervals
            carry it, widened where the points lie further from the line than it explains; without them the distances
            from the line tell, for which three sizes are needed.

    Raises:
        InputError: fewer than two sizes that differ (three without errors), a rate of 0 or 1, or shapes that differ.
    """
    from scipy.stats import norm, t

    sized, rated = np.asarray(sizes, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    if sized.ndim != 1 or sized.shape != rated.shape:
        raise InputError(f"got rates of shape {rated.shape}, expected {sized.shape}", fix="Give one rate for each size")
    needed = 3 if errors is None else 2
    if len(np.unique(sized)) < needed or not (sized > 0).all():
        raise InputError(
            f"there are fewer than {needed} sizes",
            fix="Measure models of more sizes" + (", or give errors" * (needed == 3)),
        )
    if not ((rated > 0) & (rated < 1)).all():
        raise InputError("a rate of 0 or 1 cannot be fitted", fix="Sample until something passes, or leave it out")
    heights = np.log(-np.log(rated))
    design = np.stack([np.ones(len(sized)), np.log(sized)], axis=1)
    if errors is None:
        weights = np.ones(len(sized))
    else:
        given = np.asarray(errors, dtype=np.float64)
        if given.shape != rated.shape or not (given > 0).all():
            raise InputError("errors must be above 0, one for each rate", fix="Give standard errors")
        # The delta method: d log(-log p) / dp = 1 / (p log p).
        weights = np.square(rated * np.log(rated) / given)
    normal = design.T @ (weights[:, None] * design)
    (level, slope) = np.linalg.solve(normal, design.T @ (weights * heights))
    misses = heights - design @ np.array([level, slope])
    chi = float((weights * np.square(misses)).sum())
    free = len(sized) - 2
    scale = chi / free if errors is None else max(1.0, chi / free if free else 1.0)
    spread = float(t.ppf(1 - _TAIL, free)) if errors is None else float(norm.ppf(1 - _TAIL))
    covariance = np.linalg.inv(normal) * scale
    return TaskScaling(
        -float(slope),
        math.exp(level),
        tuple(sized.tolist()),
        tuple(rated.tolist()),
        float(np.sqrt(np.square(misses).mean())),
        ((float(covariance[0, 0]), float(covariance[0, 1])), (float(covariance[1, 0]), float(covariance[1, 1]))),
        spread,
    )
