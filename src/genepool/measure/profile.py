"""A model's profile: how good it is at what, how much its confidence can be trusted, and what it should leave out.

Computed from one model's outcomes; `report` draws it, `genepool profile` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genepool.errors import InputError, listed
from genepool.measure.abstention import Abstention, Guarantee, abstention, guarantee
from genepool.measure.calibration import Calibration, calibration
from genepool.measure.intervals import Interval, macro_interval, mean_interval

if TYPE_CHECKING:
    from genepool.tasks import OutcomeTable

# Under so many answers a curve of confidence is noise.
_FEWEST = 30


@dataclass(frozen=True)
class ProfileRow:
    """A task, or the examples of all tasks that share a tag.

    Attributes:
        name: of the task or tag.
        n: examples.
        score: mean with its 95% interval.
    """

    name: str
    n: int
    score: Interval


@dataclass(frozen=True)
class ConfidenceProfile:
    """What the confidence of some answers is worth.

    Attributes:
        task: the task, or None for all tasks together.
        calibration: whether it can be taken at its word; None where scores are by degree.
        abstention: whether it tells right from wrong.
        guarantee: the lowest threshold that keeps wrong answers under the profile's risk; None where none does.
    """

    task: str | None
    calibration: Calibration | None
    abstention: Abstention
    guarantee: Guarantee | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        kept = self.guarantee
        return {
            "task": self.task,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "abstention": self.abstention.to_dict(),
            "guarantee": None
            if kept is None
            else {"threshold": kept.threshold, "coverage": kept.coverage, "risk": kept.risk},
        }


@dataclass(frozen=True)
class Profile:
    """One model.

    Attributes:
        model, fingerprint: who.
        split: which examples.
        mean: mean over the tasks, each counting the same.
        tasks: the tasks, in the order given.
        tags: examples by tag, by name; empty without tags.
        trust: for all answers together first, then for every task; only where enough answers have a confidence.
        risk: the share of wrong answers that `ConfidenceProfile.guarantee` allows.
        sure: how many of the answers have a confidence.
    """

    model: str
    fingerprint: str
    split: str
    mean: Interval
    tasks: tuple[ProfileRow, ...]
    tags: tuple[ProfileRow, ...]
    trust: tuple[ConfidenceProfile, ...]
    risk: float
    sure: int

    @property
    def n(self) -> int:
        """Examples in all."""
        return sum(part.n for part in self.tasks)

    @property
    def notices(self) -> list[str]:
        """What the reader must know before the numbers, a sentence each."""
        found = []
        few = [part.name for part in self.tasks if part.n < _FEWEST]
        if few:
            found.append(f"Fewer than {_FEWEST} examples of {listed(few)}: their intervals are wide.")
        if self.sure < self.n:
            what = "None" if not self.sure else f"Only {self.sure:,}"
            found.append(f"{what} of {self.n:,} answers have a confidence, and only those say how far to trust it.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "split": self.split,
            "n": self.n,
            "mean": self.mean._asdict(),
            "tasks": [{"task": one.name, "n": one.n, **one.score._asdict()} for one in self.tasks],
            "tags": [{"tag": one.name, "n": one.n, **one.score._asdict()} for one in self.tags],
            "risk": self.risk,
            "trust": [one.to_dict() for one in self.trust],
            "notices": self.notices,
        }


def profile(table: OutcomeTable, model: str, *, risk: float = 0.1, seed: int = 0) -> Profile:
    """A model's profile.

    Args:
        table: outcomes; only those of `model` count.
        model: its name in the table.
        risk: the share of wrong answers that the guarantee of abstention allows.
        seed: of the bootstrap.

    Raises:
        InputError: the model is not in the table, or the risk is not between 0 and 1.
    """
    if not 0 < risk < 1:
        raise InputError(f"risk must lie between 0 and 1, got {risk}")
    scores = {task: table.scores(model, task) for task in table.tasks}
    tagged: dict[str, list[float]] = {}
    confident: dict[str, list[tuple[float, float]]] = {}
    for task in table.tasks:
        for example, outcome in zip(table.examples(task), table.outcomes(model, task), strict=True):
            for tag in example.tags:
                tagged.setdefault(tag, []).append(outcome.score)
            if "confidence" in outcome.detail:
                sure = min(max(outcome.detail["confidence"], 0.0), 1.0)
                confident.setdefault(task, []).append((sure, outcome.score))
    together = [pair for of in confident.values() for pair in of]
    asked: list[tuple[str | None, list[tuple[float, float]]]] = [(None, together)]
    if len(table.tasks) > 1:
        asked += list(confident.items())
    return Profile(
        model,
        table.fingerprints[model],
        table.split,
        macro_interval(list(scores.values()), seed=seed),
        tuple(ProfileRow(task, len(of), mean_interval(of, seed=seed)) for task, of in scores.items()),
        tuple(ProfileRow(tag, len(of), mean_interval(np.array(of), seed=seed)) for tag, of in sorted(tagged.items())),
        tuple(_trust(task, of, risk, seed) for task, of in asked if len(of) >= _FEWEST),
        risk,
        len(together),
    )


def _trust(task: str | None, pairs: list[tuple[float, float]], risk: float, seed: int) -> ConfidenceProfile:
    sure, scores = (np.array(side) for side in zip(*pairs, strict=True))
    plain = bool(np.isin(scores, (0.0, 1.0)).all())
    return ConfidenceProfile(
        task,
        calibration(sure, scores, seed=seed) if plain else None,
        abstention(sure, scores, seed=seed),
        guarantee(sure, scores, risk=risk) if plain else None,
    )
