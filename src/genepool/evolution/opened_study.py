"""A study with its models and tasks opened and checked: what the driver plans with and every worker evaluates with.

Uses weights and tasks, and leaves to the study's representation what candidates are made of. Opening reads headers and
task files only.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, nearest
from genepool.evolution.permissions import NOTHING, Permissions
from genepool.evolution.representations import Representation, representation
from genepool.evolution.representations.base import Ingredients
from genepool.evolution.strategies.base import UNCHANGED
from genepool.evolution.study import FitnessSettings, Study
from genepool.evolution.study_tasks import load_study_tasks
from genepool.evolution.voting import can_vote

if TYPE_CHECKING:
    import numpy as np

    from genepool.tasks import Task
    from genepool.weights import Weights


@dataclass
class OpenedStudy:
    """A study, its models (headers read) and its tasks (files read).

    Attributes:
        study: the study, its paths resolved.
        where: its file, for errors.
        representation: what it varies.
        tasks: the chosen tasks.
        device: torch's name of the device that models are asked on.
    """

    study: Study
    where: str
    representation: Representation[Any, Any]
    tasks: Sequence[Task]
    device: str = "cpu"

    @classmethod
    def open(
        cls,
        study: Study,
        where: str = "study",
        *,
        out: Path | None = None,
        resident: Collection[str] = (),
        sources: Mapping[str, Weights] | None = None,
        trust: Permissions = NOTHING,
        device: str = "cpu",
    ) -> OpenedStudy:
        """Opens and checks everything a study names.

        Args:
            study: the study, its paths resolved.
            where: its file, for errors.
            out: the study's folder, where a run keeps what it bred.
            resident: names of the skills whose tensors are held in memory, and "base".
            sources: the base and skills by their model strings, where they are held already.
            trust: what it may open.
            device: torch's name of the device that models are asked on.

        Raises:
            InputError: a model, a task, the method, a range or how they fit together is wrong, or the models cannot be
                asked the tasks.
        """
        from genepool.tasks import open_model
        from genepool.tasks.answering import check_fits
        from genepool.weights import open_weights

        if sources is None:
            base = open_weights(study.reference, allow_pickle=trust.pickles)
            skills = {
                skill.model: open_weights(skill.model, base=base, allow_pickle=trust.pickles) for skill in study.skills
            }
        else:
            base, skills = sources[study.reference], {skill.model: sources[skill.model] for skill in study.skills}
        tasks = _chosen(study, where, trust)
        for task in tasks:
            check_fits(task, open_model(base).kind, study.reference)
            for model, weights in skills.items() if study.merges_a_part else ():
                check_fits(task, open_model(weights).kind, model)
        found = Ingredients(
            study,
            where,
            base,
            skills,
            tasks,
            out=out,
            resident=resident,
            in_memory=sources is not None,
            trust=trust,
            device=device,
        )
        opened = cls(study, where, representation(study.vary.kind)(found), tasks, device)
        opened.check_unchanged()
        return opened

    def check_labels(self) -> None:
        """Refuses classifiers whose classes are no answers of a task, which would be found when the winner is tested.

        Raises:
            InputError: naming the task and some of the labels.
        """
        from genepool.tasks import open_model
        from genepool.tasks.answering import check_labels

        for weights in (self.sources[model] for model in {self.study.reference, *(s.model for s in self.study.skills)}):
            asked = open_model(weights)
            if "classes" in asked.kind.can:
                model = asked.load(self.device, self.study.compute)
                for task in self.tasks:
                    check_labels(task, task.examples("test"), model)

    @property
    def sources(self) -> Mapping[str, Weights]:
        """The base and the skills, by their model strings."""
        return self.representation.sources

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What the study reads, by content: fingerprints of models, digests of the examples that score candidates.

        Of a method from outside the package also its file.
        """
        study, code = self.study, self.representation.code()
        named = {study.reference, *(skill.model for skill in study.skills)}
        kept = sorted(weights.fingerprint() for model, weights in self.sources.items() if model not in named)
        return {
            **({"kept": kept} if kept else {}),
            **({"method": code} if code else {}),
            **({} if study.base is None else {"base": self.sources[study.base].fingerprint()}),
            "models": {skill.name: self.sources[skill.model].fingerprint() for skill in study.skills},
            "examples": {task.name: _digest(task) for task in self.tasks},
        }

    @property
    def examples(self) -> int:
        """Examples per task that score a candidate, of the smallest task."""
        fewest = min(len(task.examples("valid")) for task in self.tasks)
        return fewest if self.study.tasks.valid is None else min(fewest, self.study.tasks.valid)

    @cached_property
    def importance(self) -> np.ndarray | None:
        """What each example of a candidate's scores counts for, as `Evidence.importance`."""
        import numpy as np

        limit = self.study.tasks.valid
        sizes = [min(len(task.examples("valid")), limit or sys.maxsize) for task in self.tasks]
        weights = [self.study.tasks.weights.get(task.name, 1.0) for task in self.tasks]
        if len(set(zip(sizes, weights, strict=True))) == 1:
            return None
        each = [weight / size for weight, size in zip(weights, sizes, strict=True)]
        return np.repeat(np.array(each) * sum(sizes) / sum(weights), sizes)

    def check_unchanged(self) -> None:
        """Refuses a study without a base whose strategy wants to know how much of the base is left."""
        if self.study.base is None and self.asks_unchanged:
            raise InputError(
                f"'{UNCHANGED}' compares with the base, and the study has none",
                where=f"{self.where}:strategy.options",
                fix="Add `base: MODEL`, or leave the objective out",
            )

    @cached_property
    def asks_unchanged(self) -> bool:
        """Whether the strategy wants to know how much of the base a candidate leaves as it is."""
        options = self.study.strategy.options
        named = [*(options.get("objectives") or ()), *(options.get("behaviours") or ())]
        return UNCHANGED in named and UNCHANGED not in [task.name for task in self.tasks]

    def worth(self, valid: Mapping[str, float]) -> float:
        """The fitness of these means of the tasks."""
        return fitness(valid, self.study.tasks.weights, self.study.objective)


def _digest(task: Task) -> str:
    """SHA-256, hex, of what the task asks on validation and how."""
    return hashlib.sha256("\x1f".join([task.asking, *(e.key for e in task.examples("valid"))]).encode()).hexdigest()


def _chosen(study: Study, where: str, trust: Permissions) -> list[Task]:
    """The study's tasks, with validation and test examples that are not the same ones."""
    tasks = load_study_tasks(study, trust.tasks)
    names = [task.name for task in tasks]
    for name in study.tasks.weights:
        if name not in names:
            raise InputError(f"no task '{name}'", where=f"{where}:tasks.weights", fix=nearest(name, names))
    if not any(study.tasks.weights.get(name, 1.0) for name in names):
        raise InputError("no task has a weight above zero", where=f"{where}:tasks.weights", fix="Give one to a task")
    if study.ensemble and not any(can_vote(task) for task in tasks):
        raise InputError(
            "every task accepts many wordings of an answer, so no majority forms",
            where=f"{where}:ensemble",
            fix="Leave `ensemble` out, or add a task with exact_match or multiple_choice",
        )
    for task in tasks:
        valid, test = task.examples("valid"), task.examples("test")
        if valid is test:
            raise InputError(
                f"task '{task.name}' has one split, so the winner would be tested on the examples that chose it",
                where=study.tasks.dir,
                fix="Give it a folder with valid.jsonl and test.jsonl, or keep some back: `tasks: {held_out: 0.5}`",
            )
    return tasks


def fitness(valid: Mapping[str, float], weights: Mapping[str, float], objective: FitnessSettings) -> float:
    """One number from the means of the tasks: (1 - worst) * weighted mean + worst * smallest mean.

    Args:
        valid: mean score by task.
        weights: weight by task; 1 where none is given.
        objective: the share of the worst.
    """
    shares = {task: weights.get(task, 1.0) for task in valid}
    mean = sum(valid[task] * share for task, share in shares.items()) / sum(shares.values())
    counted = [valid[task] for task, share in shares.items() if share > 0]
    return (1 - objective.worst) * mean + objective.worst * min(counted)
