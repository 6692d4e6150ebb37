"""AGAIN: the curriculum of an earlier training that began alike and ended well, before and beside ALP-GMM's own."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.training.gaussian_mixture import MixedGaussians
from genepool.training.samplers.alp_gmm import AlpGmm, AlpGmmOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

#: The record in the folder of a training.
_RECORD = "run.sqlite"
# Cells of the grid in each parameter on which scores are compared, and how many of a cell's last scores count (ours).
_CELLS, _LAST = 4, 10
# Examples whose mean score ends a stage, or says how it went (authors' code).
_JUDGED = 50


class AgainOptions(AlpGmmOptions):
    """Options of AGAIN."""

    random: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Part drawn at random once a student is chosen (authors' code: 0.02); all are before.",
    )
    students: tuple[str, ...] = Field(
        default=(),
        description="Folders of earlier trainings on these examples, with any sampler of parameters that draws the "
        "first `window` examples at random, such as alp_gmm.",
    )
    nearest: int = Field(
        default=5, ge=1, le=1000, description="Of so many students that began most alike, the best is taken (paper: 5)."
    )
    least: float = Field(
        default=0.2, ge=0, le=1, description="Gaussians of the student with less progress are left out (paper: 0.2)."
    )
    replay: Literal["reward", "time", "pool"] = Field(
        default="reward",
        description="When the student's next mixture is taken: when scores reach its own, after `window` examples, or "
        "all of them at once.",
    )
    student: Literal["best", "any"] = Field(default="best", description="any: a student that is drawn, as a control.")


@dataclass(frozen=True)
class StudentStage:
    """A mixture of a student, of which Gaussians of little progress are left out.

    Attributes:
        means, covariances: of what is left, the progress being the last dimension.
        score: the student's in the end of the examples that were drawn of it.
    """

    means: np.ndarray
    covariances: np.ndarray
    score: float


@dataclass(frozen=True)
class PastStudent:
    """An earlier training.

    Attributes:
        name: of its folder.
        points: its examples, (examples, parameters).
        scores: of each, (examples,).
    """

    name: str
    points: np.ndarray
    scores: np.ndarray


class Again(AlpGmm):
    """Two stages: random examples show which student began alike; then its mixtures are taken beside those of ALP-GMM.

    How a student began are its mean scores in the cells of a grid, over the first `window` examples; how it ended, the
    sum over the cells of the means of the last ten scores in each, 0 where there are none. (The authors ask a fixed set
    of tasks at both times.) Of the nearest students the best one's mixtures are fitted again to what it saw, and are
    taken one after another, beside the mixture of ALP-GMM. With `replay: reward` the next one comes when the mean of 50
    examples that are most likely of the student's Gaussians reaches the student's score in its place. After `window`
    examples on the last one, ALP-GMM goes on alone.
    """

    name = "again"
    source = "Portelas et al., Meta Automatic Curriculum Learning (arXiv:2011.08463); as in the authors' code"
    when = "Earlier trainings on the same examples are at hand, of models that began alike."
    paths = ("students",)
    Options = AgainOptions
    options: AgainOptions

    def __init__(self, options: Any, arms: Any, students: Sequence[PastStudent] | None = None) -> None:
        super().__init__(options, arms)
        self.students = [self._read(path) for path in self.options.students] if students is None else list(students)
        if not self.students:
            raise InputError(
                "again replays what an earlier training learned from, and none is named",
                where="sampler_options.students",
                fix="Name folders of trainings with --sampler alp_gmm, or use that one",
            )
        if self.options.student == "best":
            # Too many parameters for a grid are told now, and not after the first window.
            self.space.cells(self.space.points[:1], _CELLS)
        #: The student that was chosen, None before that; its stages, and the number of the one that is on.
        self.chosen: PastStudent | None = None
        self.stages: list[StudentStage] = []
        self.stage = 0
        self._since = 0
        self._recent: deque[float] = deque(maxlen=_JUDGED)

    # ------------------------------------------------------------------ students

    def _read(self, path: str) -> PastStudent:
        """A student from the record of its training."""
        import numpy as np

        from genepool.training.journal import Journal

        where, folder = "sampler_options.students", Path(path)
        if not (folder / _RECORD).is_file():
            raise InputError(f"{path} holds no training", where=where, fix="Name the --out of a `genepool train`")
        with Journal(folder / _RECORD) as journal:
            seen = [self.evidence(rows) for _, rows in journal.evidence(len(journal.steps()))]
        points = np.concatenate([own for own, _ in seen]) if seen else np.zeros((0, len(self.space)))
        if len(points) < 2 * self.options.window:
            raise InputError(
                f"{path} learned from {len(points):,} examples of this training, expected at least "
                f"{2 * self.options.window:,}: two windows",
                where=where,
                fix="Name a longer training on the same examples, or set a smaller sampler.window",
            )
        return PastStudent(folder.name, points, np.concatenate([values for _, values in seen]))

    @cached_property
    def known(self) -> str:
        """SHA-256, hex, of the numbers of the examples and of what the students saw."""
        total = hashlib.sha256(super().known.encode())
        for one in self.students:
            total.update(one.points.tobytes() + one.scores.tobytes())
        return total.hexdigest()

    def began(self, points: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Mean scores by cell, (cells,), of the first window; the mean of all where a cell has no example."""
        import numpy as np

        window = self.options.window
        cells = self.space.cells(points[:window], _CELLS)
        count = _CELLS ** len(self.space)
        sums, counts = np.bincount(cells, scores[:window], count), np.bincount(cells, minlength=count)
        found: np.ndarray = np.where(counts > 0, sums / np.maximum(counts, 1), scores[:window].mean())
        return found

    def ended(self, points: np.ndarray, scores: np.ndarray) -> float:
        """The sum over the cells of the means of their last scores."""
        import numpy as np

        last: dict[int, deque[float]] = {}
        for cell, score in zip(self.space.cells(points, _CELLS).tolist(), scores.tolist(), strict=True):
            last.setdefault(cell, deque(maxlen=_LAST)).append(score)
        return float(sum(np.mean(own) for own in last.values()))

    def pick(self) -> PastStudent:
        """The best of the students that began most alike, or any, as the options say; of equal ones the first."""
        import numpy as np

        if self.options.student == "any":
            return self.students[int(self.generator("student").integers(len(self.students)))]
        assert self._seen is not None
        own = self.began(self._seen[: len(self._scores)], np.array(self._scores))
        apart = [float(np.linalg.norm(self.began(one.points, one.scores) - own)) for one in self.students]
        near = sorted(range(len(apart)), key=apart.__getitem__)[: self.options.nearest]
        return self.students[max(near, key=lambda at: self.ended(self.students[at].points, self.students[at].scores))]

    def stages_of(self, student: PastStudent) -> list[StudentStage]:
        """The mixtures of a student that have a Gaussian of much progress, in their order."""
        import numpy as np

        replayed = AlpGmm(AlpGmmOptions(**self.options.model_dump(include=set(AlpGmmOptions.model_fields))), self.arms)
        for point, score in zip(student.points, student.scores.tolist(), strict=True):
            replayed.observe_one(point, score)
        found = []
        for count, mixture in replayed.fits:
            after = slice(count, count + self.options.window)
            much = mixture.means[:, -1] > self.options.least
            own = student.scores[after][much[_likeliest(mixture.means, mixture.covariances, student.points[after])]]
            if len(own):
                found.append(
                    StudentStage(mixture.means[much], mixture.covariances[much], float(np.mean(own[-_JUDGED:])))
                )
        if self.options.replay == "pool" and found:
            means, covariances = (
                np.concatenate([getattr(one, name) for one in found]) for name in ("means", "covariances")
            )
            found = [StudentStage(means, covariances, found[-1].score)]
        return found

    # ------------------------------------------------------------------ what is observed and proposed

    @property
    def current(self) -> StudentStage | None:
        """The stage of the student that is on; None before there is one, and after the last."""
        return self.stages[self.stage] if self.stage < len(self.stages) else None

    def observe_one(self, point: np.ndarray, score: float) -> None:
        super().observe_one(point, score)
        if self.chosen is None:
            if len(self._scores) == self.options.window:
                self.chosen = self.pick()
                self.stages = self.stages_of(self.chosen)
            return
        if (stage := self.current) is None:
            return
        self._since += 1
        if self._of_student(point, stage):
            self._recent.append(score)
        last = self.stage == len(self.stages) - 1
        if self.options.replay == "reward" and not last:
            over = len(self._recent) == _JUDGED and sum(self._recent) / _JUDGED >= stage.score
        else:
            # A pool of all mixtures has no end.
            over = self._since >= self.options.window and self.options.replay != "pool"
        if over:
            self.stage, self._since = self.stage + 1, 0
            self._recent.clear()

    def _of_student(self, point: np.ndarray, stage: StudentStage) -> bool:
        """Whether a point is most likely of a Gaussian of the student."""
        return int(_likeliest(*self.gaussians(), point[None])[0]) < len(stage.means)

    def gaussians(self) -> tuple[np.ndarray, np.ndarray]:
        """The student's first, then those of the own last mixture."""
        import numpy as np

        means, covariances = super().gaussians()
        if (stage := self.current) is None:
            return means, covariances
        return np.concatenate([stage.means, means]), np.concatenate([stage.covariances, covariances])


def _likeliest(means: np.ndarray, covariances: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of which Gaussian each point is most likely, each weighted as it is drawn, (points,)."""
    import numpy as np

    weights = np.maximum(means[:, -1], 1e-12)
    over_parameters = MixedGaussians(weights / weights.sum(), means[:, :-1], covariances[:, :-1, :-1])
    found: np.ndarray = over_parameters.densities(points).argmax(1)
    return found
