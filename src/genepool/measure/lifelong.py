"""What a model keeps, and passes on from task to task, while it learns one after another.

Two suites: GEM's measures of an accuracy matrix, with forgetting, and the domain-agnostic suite of a log of training
and evaluation blocks, as l2metrics 3.1 defines it. Plain numbers in and out; nothing here asks a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.errors import InputError
from genepool.measure.lifelong_log import Block

Floats = NDArray[np.float64]
Direction = Literal["forward", "backward"]

# l2metrics: the moving average spans a fifth of the scores, at most 100 of them, and under 3 there is none.
_WIDEST, _NARROWEST = 100, 3
# l2metrics: a task that saturates below this share of its expert's saturation was not learned.
_LEARNED = 0.2
_SAME = 1e-12


# ---------------------------------------------------------------------- accuracy matrices


@dataclass(frozen=True)
class ContinualAccuracy:
    """What became of tasks learned one after another, the i-th in the i-th stage.

    R[t, i] is the score on task i after stage t.

    Attributes:
        average: mean score over the tasks after the last stage (ACC).
        backward_transfer: mean of R[last, i] - R[i, i] over all tasks but the last (BWT); negative when later tasks
            did harm. None where there is but one task.
        forward_transfer: mean of R[i-1, i] - b[i] over all tasks but the first, b being the score of the untrained
            model (FWT). None without b, or where there is but one task.
        forgetting: mean over all tasks but the last of the best score between learning the task and the last stage,
            that one left out, less the score after the last. None where there is but one task.
        backward_transfers, forward_transfers, forgettings: the same task by task; None where it has none.
    """

    average: float
    backward_transfer: float | None
    forward_transfer: float | None
    forgetting: float | None
    backward_transfers: tuple[float | None, ...]
    forward_transfers: tuple[float | None, ...]
    forgettings: tuple[float | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def continual_accuracy(matrix: ArrayLike, untrained: ArrayLike | None = None) -> ContinualAccuracy:
    """Average accuracy, transfer and forgetting.

    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017, equations 2 to 4; forgetting after
    Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018, section 3.

    Args:
        matrix: R, shape (tasks, tasks): scores on every task, a column each, after every stage, a row each.
        untrained: b, shape (tasks,): scores of the model before the first stage.

    Raises:
        InputError: the matrix is not square, b has another length, or a score is not a number.
    """
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not scores.size:
        raise InputError(
            f"got an accuracy matrix of shape {scores.shape}, expected (stages, tasks)",
            fix="Give a row per stage, a column per task",
        )
    count = len(scores)
    before = np.full(count, np.nan) if untrained is None else np.asarray(untrained, dtype=np.float64)
    if before.shape != (count,):
        raise InputError(
            f"got untrained scores of shape {before.shape}, expected ({count},)", fix="Give one score for each task"
        )
    if not np.isfinite(scores).all() or (untrained is not None and not np.isfinite(before).all()):
        raise InputError("a score is not a number", fix="Evaluate every task after every stage")
    backward = [float(scores[-1, i] - scores[i, i]) for i in range(count - 1)]
    forgotten = [float(scores[i:-1, i].max() - scores[-1, i]) for i in range(count - 1)]
    forward = [float(scores[i - 1, i] - before[i]) for i in range(1, count)] if untrained is not None else []
    return ContinualAccuracy(
        float(scores[-1].mean()),
        _mean(backward),
        _mean(forward),
        _mean(forgotten),
        (*backward, None),
        (None, *forward) if forward else (None,) * count,
        (*forgotten, None),
    )


# ---------------------------------------------------------------------- logs of blocks


@dataclass(frozen=True)
class TaskCourse:
    """What became of one task. A number is None where the log does not say, for the reason given.

    Attributes:
        task: its name.
        trained, evaluated: terminal performance of its training and of its evaluation blocks, in order.
        maintenance: mean of `maintained`; None where it was not evaluated again between or after trainings.
        maintained: for each such evaluation, how much higher it is than the first one after the latest training.
        relative: sum of its training scores over that of its single-task expert, both cut to the shorter; None without
            an expert or training, or where a sum is negative or the expert's zero.
        saturation: highest moving average of its training scores; None without training.
        to_saturation: experiences before that.
        efficiency: sample efficiency, (saturation / expert's) * (expert's experiences / its experiences). None without
            an expert or training; where either saturates at its first experience; where the expert's saturation is
            not above zero; where the task was hardly learned: below a fifth of the expert's saturation, or with
            training scores that fall on the whole (l2metrics calls these 0).
        recovery: minus the Theil-Sen slope of `recovery_times`, positive when it recovers ever faster; None with fewer
            than two of them.
        recovery_times: for each training but the first, experiences before a score reaches the terminal performance
            of the training before; one more than it has where none does.
    """

    task: str
    trained: tuple[float, ...]
    evaluated: tuple[float, ...]
    maintenance: float | None
    maintained: tuple[float, ...]
    relative: float | None
    saturation: float | None
    to_saturation: int | None
    efficiency: float | None
    recovery: float | None
    recovery_times: tuple[int, ...]


@dataclass(frozen=True)
class LifelongTransfer:
    """What training one task did to another: evaluations of `on` right before and right after training `trained`.

    Attributes:
        trained, on: the tasks.
        direction: forward when `on` had not been trained yet, else backward.
        ratios: terminal performance after over before; None where before is zero, or either is negative.
        contrasts: (after - before) / (after + before); None where either is negative, or both are zero.
    """

    trained: str
    on: str
    direction: Direction
    ratios: tuple[float | None, ...]
    contrasts: tuple[float | None, ...]


@dataclass(frozen=True)
class LifelongMetrics:
    """The suite.

    Attributes:
        tasks: in the order in which the log names them.
        transfers: one for every direction and pair that the log has evaluations for.
        terminal: mean over the tasks of the last evaluation; None where nothing was evaluated.
        maintenance, relative, efficiency, recovery: means over the tasks that have one; None where none has.
        forward_ratio, forward_contrast, backward_ratio, backward_contrast: means over the pairs of the first value of
            each; None where no pair has one.
    """

    tasks: tuple[TaskCourse, ...]
    transfers: tuple[LifelongTransfer, ...]
    terminal: float | None
    maintenance: float | None
    forward_ratio: float | None
    forward_contrast: float | None
    backward_ratio: float | None
    backward_contrast: float | None
    relative: float | None
    efficiency: float | None
    recovery: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def lifelong_metrics(blocks: Sequence[Block], experts: Mapping[str, Sequence[float]] | None = None) -> LifelongMetrics:
    """The domain-agnostic suite of lifelong learning.

    New et al., "Lifelong Learning Metrics", 2022, as l2metrics 3.1 computes it, but that scores are taken as they are:
    l2metrics smooths training scores and scales every task's to 1 to 101 first. Ratios need a scale whose zero means
    nothing. A pair of evaluations tells of transfer only where exactly one task was trained between them, and not the
    evaluated one; where several were, l2metrics gives the last the credit.

    Args:
        blocks: the log, in the order in which things happened.
        experts: task -> training scores of a model that learned this task alone.

    Raises:
        InputError: there are no blocks, or an expert has no scores.
    """
    if not blocks:
        raise InputError("there are no blocks", fix="Log at least one training or evaluation")
    names = tuple(dict.fromkeys(block.task for block in blocks))
    tasks = tuple(_course(name, [b for b in blocks if b.task == name], (experts or {}).get(name)) for name in names)
    transfers = _transfers(blocks, names)

    def first(direction: Direction, values: Literal["ratios", "contrasts"]) -> float | None:
        known = [[v for v in getattr(t, values) if v is not None] for t in transfers if t.direction == direction]
        return _mean([of_pair[0] for of_pair in known if of_pair])

    return LifelongMetrics(
        tasks,
        transfers,
        _mean([task.evaluated[-1] for task in tasks if task.evaluated]),
        _mean([task.maintenance for task in tasks]),
        first("forward", "ratios"),
        first("forward", "contrasts"),
        first("backward", "ratios"),
        first("backward", "contrasts"),
        _mean([task.relative for task in tasks]),
        _mean([task.efficiency for task in tasks]),
        _mean([task.recovery for task in tasks]),
    )


def _course(task: str, blocks: Sequence[Block], expert: Sequence[float] | None) -> TaskCourse:
    training = [block for block in blocks if block.kind == "train"]
    curve = np.concatenate([np.asarray(block.scores, dtype=np.float64) for block in training] or [np.empty(0)])
    alone = None if expert is None else np.asarray(expert, dtype=np.float64)
    if alone is not None and (alone.ndim != 1 or not alone.size or not np.isfinite(alone).all()):
        raise InputError("the expert has no scores, or one is not a number", where=task, fix="Leave it out")
    maintained, recovered = _maintained(blocks), _recovery_times(training)
    reached = _saturation(curve) if training else None
    return TaskCourse(
        task,
        tuple(block.terminal for block in training),
        tuple(block.terminal for block in blocks if block.kind == "evaluate"),
        _mean(maintained),
        maintained,
        _relative(curve, alone) if alone is not None and training else None,
        reached[0] if reached else None,
        reached[1] if reached else None,
        _efficiency(curve, alone) if alone is not None and training else None,
        -_theil_sen(recovered) if len(recovered) > 1 else None,
        recovered,
    )


def _maintained(blocks: Iterable[Block]) -> tuple[float, ...]:
    found: list[float] = []
    reference, just_trained = None, False
    for block in blocks:
        if block.kind == "train":
            just_trained = True
        elif just_trained:
            reference, just_trained = block.terminal, False
        elif reference is not None:
            found.append(block.terminal - reference)
    return tuple(found)


def _transfers(blocks: Sequence[Block], tasks: Sequence[str]) -> tuple[LifelongTransfer, ...]:
    found: dict[tuple[str, str, Direction], list[tuple[float, float]]] = {}
    for on in tasks:
        places = [i for i, block in enumerate(blocks) if block.task == on and block.kind == "evaluate"]
        first = next((i for i, block in enumerate(blocks) if block.task == on and block.kind == "train"), len(blocks))
        for start, stop in pairwise(places):
            trained = {block.task for block in blocks[start:stop] if block.kind == "train"}
            if len(trained) == 1 and on not in trained:
                direction: Direction = "forward" if stop < first else "backward"
                pair = (blocks[start].terminal, blocks[stop].terminal)
                found.setdefault((trained.pop(), on, direction), []).append(pair)
    return tuple(
        LifelongTransfer(
            trained,
            on,
            direction,
            tuple(_ratio(after, before) if after >= 0 else None for before, after in pairs),
            tuple(_contrast(after, before) for before, after in pairs),
        )
        for (trained, on, direction), pairs in found.items()
    )


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def _contrast(after: float, before: float) -> float | None:
    return _ratio(after - before, after + before) if min(after, before) >= 0 else None


def _relative(curve: Floats, expert: Floats) -> float | None:
    common = min(len(curve), len(expert))
    mine, alone = float(curve[:common].sum()), float(expert[:common].sum())
    return _ratio(mine, alone) if mine >= 0 else None


def _efficiency(curve: Floats, expert: Floats) -> float | None:
    (reached, after), (alone, alone_after) = _saturation(curve), _saturation(expert)
    if not after or not alone_after or alone <= 0 or reached < _LEARNED * alone:
        return None
    # The sign of the least-squares slope.
    if float(np.dot(np.arange(len(curve)) - (len(curve) - 1) / 2, curve)) < 0:
        return None
    return reached / alone * alone_after / after


def _saturation(curve: Floats) -> tuple[float, int]:
    """The highest moving average, and how many experiences are before it."""
    averages = moving_average(curve)
    highest = float(averages.max())
    # Sums of the same scores in another order differ in the last bits.
    return highest, int(np.flatnonzero(averages >= highest - _SAME * np.abs(averages).max())[0])


def moving_average(scores: ArrayLike) -> Floats:
    """l2metrics' smoothing, shape (n,) as the scores: a flat window of min(0.2 n, 100), the ends reflected."""
    values = np.asarray(scores, dtype=np.float64)
    window = min(len(values) // 5, _WIDEST)
    if window < _NARROWEST:
        return values
    padded = np.pad(values, (math.ceil(window / 2), window // 2 - 1), mode="reflect")
    return np.convolve(padded, np.full(window, 1 / window), mode="valid")


def _recovery_times(training: Sequence[Block]) -> tuple[int, ...]:
    found = []
    for before, block in pairwise(training):
        reached = np.flatnonzero(np.asarray(block.scores) >= before.terminal)
        found.append(int(reached[0]) if len(reached) else len(block.scores) + 1)
    return tuple(found)


def _theil_sen(values: Sequence[float]) -> float:
    """Median slope of all pairs of points (Sen 1968), the values one apart."""
    first, second = np.triu_indices(len(values), 1)
    points = np.asarray(values, dtype=np.float64)
    return float(np.median((points[second] - points[first]) / (second - first)))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
