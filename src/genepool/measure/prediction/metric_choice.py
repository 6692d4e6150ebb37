"""Is a jump the model's or the metric's?

Exact match asks for every token of an answer, so a steady gain per token can look like an ability that appears at once
(Schaeffer et al., "Are Emergent Abilities of Large Language Models a Mirage?", 2023). Held against it on the same
outcomes are the share of right tokens and the Brier score of the expected answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from genepool import seeding
from genepool.errors import InputError
from genepool.measure.intervals import CONFIDENCE, Interval, Scores, mean_interval

if TYPE_CHECKING:
    from genepool.tasks import OutcomeTable

Verdict = Literal["the metric's", "the model's", "cannot be told"]
_DRAWS = 2000
_SAME = 1e-12


@dataclass(frozen=True)
class MetricCurve:
    """One metric over the models.

    Attributes:
        metric: "exact match", "right tokens", "Brier" (one minus the Brier score of the expected answer's likelihood),
            or "expected exact match" (the share of right tokens to the power of the answer's length).
        values: mean per model with its 95% interval.
        share: how much of the whole way it goes, up and down, falls on the jump.
    """

    metric: str
    values: tuple[Interval, ...]
    share: float | None


@dataclass(frozen=True)
class MetricChoice:
    """A jump in exact match, seen with other metrics.

    Attributes:
        task, models: what, and the models in the order given: by size, or by steps.
        jump: the two models between which exact match moves most.
        curves: the metrics.
        sharper: by how much the share of exact match that falls on the jump exceeds that of right tokens, with a 95%
            bootstrap interval over the examples.
        verdict: "the metric's" where exact match is surely sharper; "the model's" where it is not, and right tokens go
            half their way at the jump as well.
    """

    task: str
    models: tuple[str, ...]
    jump: tuple[str, str]
    curves: tuple[MetricCurve, ...]
    sharper: Interval
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = asdict(self)
        found["sharper"] = self.sharper._asdict()
        found["curves"] = [
            {"metric": one.metric, "share": one.share, "values": [value._asdict() for value in one.values]}
            for one in self.curves
        ]
        return found


def metric_choice(
    table: OutcomeTable, task: str, models: Sequence[str] | None = None, *, seed: int = 0
) -> MetricChoice:
    """Holds exact match against token-level metrics on the same outcomes.

    Args:
        table: outcomes of an exact-match task whose details have "token_accuracy", "tokens" and "logprob".
        task: its name.
        models: in the order of size or training; those of the table when None.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than three models, exact match that never moves, or an outcome without these details.
    """
    names = tuple(models or table.models)
    if len(names) < 3:
        raise InputError(
            f"got {len(names)} models, expected at least 3",
            fix="Name models of three or more sizes, in the order of size",
        )
    exact, tokens, likely, expected = (np.empty((len(names), len(table.examples(task)))) for _ in range(4))
    for row, model in enumerate(names):
        for place, outcome in enumerate(table.outcomes(model, task)):
            if not {"token_accuracy", "tokens", "logprob"} <= set(outcome.detail):
                raise InputError(
                    f"{model}: example {table.examples(task)[place].id} has no token-level details",
                    where=task,
                    fix="Use exact_match at temperature 0 with one answer for each example",
                )
            exact[row, place] = outcome.score
            tokens[row, place] = outcome.detail["token_accuracy"]
            likely[row, place] = 1 - (1 - math.exp(min(outcome.detail["logprob"], 0.0))) ** 2
            expected[row, place] = outcome.detail["tokens"]
    expected = tokens.mean(axis=1, keepdims=True) ** expected
    steps = np.diff(exact.mean(axis=1))
    place = int(np.abs(steps).argmax())
    if abs(steps[place]) < _SAME:
        raise InputError("exact match is the same for all models", where=task, fix="Name models that differ")
    generator = seeding.numpy_generator(seed, "metric choice")
    draws = []
    for _ in range(_DRAWS):
        picks = generator.integers(0, exact.shape[1], size=exact.shape[1])
        one, other = _share(exact[:, picks], place), _share(tokens[:, picks], place)
        if one is not None and other is not None:
            draws.append(one - other)
    kinds = {"exact match": exact, "expected exact match": expected, "right tokens": tokens, "Brier": likely}
    curves = tuple(
        MetricCurve(name, tuple(mean_interval(row, seed=seed) for row in values), _share(values, place))
        for name, values in kinds.items()
    )
    sharpness, smooth = curves[0].share or 0.0, curves[2].share or 0.0
    tail = 100 * (1 - CONFIDENCE) / 2
    lo, hi = np.percentile(draws, [tail, 100 - tail]) if draws else (-1.0, 1.0)
    sharper = Interval(sharpness - smooth, min(float(lo), sharpness - smooth), max(float(hi), sharpness - smooth))
    verdict: Verdict = "the metric's" if lo > 0 else "the model's" if smooth >= 0.5 else "cannot be told"
    return MetricChoice(task, names, (names[place], names[place + 1]), curves, sharper, verdict)


def _share(values: Scores, place: int) -> float | None:
    """How much of the way of the means, shape (models, examples), falls on one step; None where they never move."""
    steps = np.abs(np.diff(values.mean(axis=1)))
    return float(steps[place] / steps.sum()) if steps.sum() > _SAME else None
