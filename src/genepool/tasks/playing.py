"""Episodes played by a policy: many are stepped together, and each has the same return alone and beside others.

A return becomes a score between the bounds that its task declares. `answering` asks through here; demonstrations, which
are what a policy does where it acts, are what compositions of policies are fitted on. Uses `environments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from genepool.errors import InputError
from genepool.tasks.environments import Episode, Spaces
from genepool.tasks.example import Example
from genepool.tasks.ledger import Outcome

if TYPE_CHECKING:
    import numpy as np

    from genepool.tasks.models import Model
    from genepool.tasks.task import Task

# What acts: observations (rows, numbers), float32 -> a choice for each row, shape (rows,), or numbers (rows, numbers);
# NaN where it cannot tell. Rows are called the same number at every step.
Acting = Callable[["np.ndarray"], "np.ndarray"]


class Actor(Protocol):
    """What every model has that can be asked for "episodes"."""

    @property
    def spaces(self) -> Spaces:
        """What it observes and what it does."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """What it does at each observation, which depends on that one alone.

        Args:
            observations: shape (rows, numbers), float32.

        Returns:
            The number of an action for each row, or the numbers that it acts by, shape (rows, numbers); NaN where its
            weights give none.
        """


@dataclass(frozen=True)
class Played:
    """How one episode went.

    Attributes:
        total: the return: the sum of the rewards; NaN where the policy gave no action.
        steps: how many were taken.
        seen: what was observed before each, shape (steps, numbers), where it was asked for.
        done: what was done then, shape (steps,) or (steps, numbers), where it was asked for.
    """

    total: float
    steps: int
    seen: Sequence[np.ndarray] = ()
    done: Sequence[Any] = ()


def play(act: Acting, episodes: Sequence[Episode], rows: int, *, keep: bool = False, where: str = "") -> list[Played]:
    """Plays episodes of environments with the same spaces, stepped together.

    Args:
        act: the policy. It is always given `rows` rows, so that what it computes for one is never changed by how many
            others there are.
        episodes: what is played, at most `rows`.
        rows: see `act`.
        keep: also keep what was seen and done.
        where: who asks, for errors.

    Raises:
        InputError: an environment is not installed.
    """
    import numpy as np

    made = [one.kind.make(one.settings, where) for one in episodes]
    settings = [one.settings for one in episodes]
    limits = [one.steps for one in episodes]
    seen = np.zeros((rows, episodes[0].kind.spaces.observations), np.float32)
    for row, (one, simulator) in enumerate(zip(episodes, made, strict=True)):
        seen[row] = simulator.reset(seed=one.seed)[0]
    totals, steps = [0.0] * len(episodes), [0] * len(episodes)
    kept: list[tuple[list[np.ndarray], list[Any]]] = [([], []) for _ in episodes]
    going = list(range(len(episodes)))
    while going:
        actions = act(seen)
        known: np.ndarray = np.atleast_1d(np.isfinite(actions.reshape(rows, -1)).all(axis=1))
        still = []
        for row in going:
            if not known[row]:
                totals[row] = math.nan
                continue
            action = int(actions[row]) if actions.ndim == 1 else actions[row]
            if keep:
                kept[row][0].append(seen[row].copy())
                kept[row][1].append(action)
            observed, given, over, _, _ = made[row].step(action)
            totals[row] += episodes[row].kind.reward(float(given), action, settings[row], over=bool(over))
            seen[row], steps[row] = observed, steps[row] + 1
            if not over and steps[row] < limits[row]:
                still.append(row)
        going = still
    return [Played(total, count, *both) for total, count, both in zip(totals, steps, kept, strict=True)]


def play_all(
    model: Model, task: Task, examples: Sequence[Example], batch_size: int, *, keep: bool = False
) -> list[Played]:
    """Every episode of some examples, played by a model.

    Raises:
        InputError: the model observes or does something else than an environment, which may not be installed.
    """
    actor = cast(Actor, model)
    spaces = actor.spaces
    for example in examples:
        kind = _episode(example, task).kind
        if kind.spaces != spaces:
            raise InputError(
                f"{kind.name} has {kind.spaces.words}, and {model.name} is for {spaces.words}",
                where=example.place(task.name),
                fix="Name a policy of this environment, or another task",
            )
    played: list[Played] = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        episodes = [_episode(one, task) for one in part]
        played += play(actor.act, episodes, batch_size, keep=keep, where=part[0].place(task.name))
    return played


def episode_outcomes(model: Model, task: Task, examples: Sequence[Example], batch_size: int) -> list[Outcome]:
    """The outcome of each episode: its return on the scale of the task's bounds, 0 where the policy gave no action.

    Raises:
        InputError: a return lies outside of bounds that do not clip, or as `play_all`.
    """
    assert task.settings.returns is not None
    low, high = task.settings.returns
    outcomes = []
    for example, one in zip(examples, play_all(model, task, examples, batch_size), strict=True):
        if math.isnan(one.total):
            outcomes.append(Outcome(0.0))
            continue
        if not low <= one.total <= high and not task.settings.clip:
            raise InputError(
                f"the example '{example.id}' has the return {one.total:g}, outside of {low:g} to {high:g}",
                where=example.place(task.name),
                fix="Declare wider `returns` in task.yaml, or `clip: true`",
            )
        detail = {"return": one.total, "steps": float(one.steps)}
        within = min(max(one.total, low), high)
        outcomes.append(Outcome((within - low) / (high - low), None, detail))
    return outcomes


def demonstrations(
    model: Model, task: Task, examples: Sequence[Example], batch_size: int, most: int
) -> list[tuple[str, str, str]]:
    """What a policy does in a task, as questions with answers: (name, observation, action) of some steps.

    Args:
        model: a policy that chooses among actions.
        task: a task of episodes.
        examples: its episodes.
        batch_size: played together.
        most: steps of an episode that are taken, spread evenly over it.

    Raises:
        InputError: as `play_all`.
    """
    found = []
    for example, one in zip(examples, play_all(model, task, examples, batch_size, keep=True), strict=True):
        count = len(one.done)
        for step in sorted({at * count // most for at in range(most)} if count else ()):
            text = " ".join(repr(float(value)) for value in one.seen[step])
            found.append((f"{task.name}:{example.id}:{step}", text, str(one.done[step])))
    return found


def _episode(example: Example, task: Task) -> Episode:
    if example.episode is None:
        raise InputError(
            "names no environment", where=example.place(task.name), fix='Write {"environment": "cart_pole", "seed": 1}'
        )
    return example.episode
