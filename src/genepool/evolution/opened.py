"""A study with its models and tasks opened and checked: what the driver plans with and every worker evaluates with.

Uses weights, merge and tasks. Opening reads headers and task files only; a worker's evaluator then holds the base,
the skills and one model in memory and applies each candidate to that model in place.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, nearest
from genepool.evolution.genome import Space
from genepool.evolution.store import Candidate, Verdict
from genepool.evolution.study import Objective, Study
from genepool.threads import torch_threads

if TYPE_CHECKING:
    from genepool.merging import Plan, Recipe
    from genepool.tasks import LanguageModel, Ledger, Task
    from genepool.weights import Weights


@dataclass
class OpenedStudy:
    """A study, its models (headers read) and its tasks (files read).

    Attributes:
        study: the study, its paths resolved.
        where: its file, for errors.
        sources: the base and the skills, by their model strings.
        space: the genes.
        tasks: the chosen tasks.
        plan: the merge at the start point; every candidate is planned like it.
    """

    study: Study
    where: str
    sources: Mapping[str, Weights]
    space: Space
    tasks: Sequence[Task]
    plan: Plan

    @classmethod
    def open(cls, study: Study, where: str = "study", *, resident: bool = False) -> OpenedStudy:
        """Opens and checks everything a study names.

        Args:
            study: the study, its paths resolved.
            where: its file, for errors.
            resident: hold the models' tensors in memory.

        Raises:
            InputError: a model, a task, the method, a range or how they fit together is wrong.
        """
        from genepool.merging import find_method, plan_merge
        from genepool.weights import infer_roles, load_resident, open_weights

        method = find_method(study.method, f"{where}:method")
        base = open_weights(study.base)
        skills = {skill.model: open_weights(skill.model, base=base) for skill in study.skills}
        roles = infer_roles({name: base.info(name) for name in base.names()})
        space = Space(study, roles, method.parameters, where=where)
        tasks = _chosen(study, where)
        sources = {study.base: base, **skills}
        if resident:
            held = load_resident(base)
            sources = {name: load_resident(weights, base=(base, held)) for name, weights in skills.items()}
            sources = {study.base: held, **sources}
        start = space.genome(space.start)
        plan = plan_merge(_recipe(space, start, study.seed, where), sources)
        return cls(study, where, plan.sources, space, tasks, plan)

    def plan_of(self, candidate: Candidate) -> Plan:
        """The merge of one candidate, from the models already open."""
        from genepool.merging import plan_merge

        recipe = _recipe(self.space, candidate.genome, candidate.seed, self.where)
        return plan_merge(recipe, self.sources, like=self.plan)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What the study reads, by content: fingerprints of models, digests of the examples that score candidates.

        Of a method from outside the package also its file.
        """
        study, code = self.study, self.plan.method.code
        return {
            **({"method": code} if code else {}),
            "base": self.sources[study.base].fingerprint(),
            "models": {skill.name: self.sources[skill.model].fingerprint() for skill in study.skills},
            "examples": {task.name: _digest(task) for task in self.tasks},
        }


def _digest(task: Task) -> str:
    """SHA-256, hex, of what the task asks on validation and how."""
    return hashlib.sha256("\x1f".join([task.asking, *(e.key for e in task.examples("valid"))]).encode()).hexdigest()


def _recipe(space: Space, genome: Mapping[str, float], seed: int, where: str) -> Recipe:
    from genepool.merging import parse_recipe

    return parse_recipe(space.recipe(genome, seed), where=where)


def _chosen(study: Study, where: str) -> list[Task]:
    """The study's tasks, with validation and test examples that are not the same ones."""
    from genepool.tasks import load_tasks

    tasks = load_tasks(study.tasks.dir, study.tasks.names)
    names = [task.name for task in tasks]
    for name in study.tasks.weights:
        if name not in names:
            raise InputError(f"no task '{name}'", where=f"{where}:tasks.weights", fix=nearest(name, names))
    if not any(study.tasks.weights.get(name, 1.0) for name in names):
        raise InputError("no task has a weight above zero", where=f"{where}:tasks.weights", fix="Give one to a task")
    for task in tasks:
        valid, test = task.examples("valid"), task.examples("test")
        if valid is test:
            raise InputError(
                f"task '{task.name}' has one split, so the winner would be tested on what it was chosen by",
                where=study.tasks.dir,
                fix="Give it a folder with valid.jsonl and test.jsonl",
            )
    return tasks


def fitness(valid: Mapping[str, float], weights: Mapping[str, float], objective: Objective) -> float:
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


class ModelEvaluator:
    """Scores candidates on the validation examples with one resident model.

    Args:
        opened: the study with resident models.
        model: a model of the base's architecture; every candidate is copied into it.
        ledger: where outcomes are kept; one that is there is not computed again.
    """

    def __init__(self, opened: OpenedStudy, model: LanguageModel, ledger: Ledger) -> None:
        self._opened, self._model, self._ledger = opened, model, ledger

    def __call__(self, candidate: Candidate) -> Verdict:
        """Applies a candidate in place and evaluates it; outcomes are durable in the ledger when this returns."""
        from genepool.tasks import evaluate

        study = self._opened.study
        wall, cpu = time.perf_counter(), time.process_time()
        with torch_threads(study.threads):
            self._model.assign(self._opened.plan_of(candidate).weights())
            table = evaluate(
                [self._model],
                self._opened.tasks,
                split="valid",
                ledger=self._ledger,
                limit=None if candidate.final else study.tasks.valid,
                seed=study.seed,
                threads=study.threads,
                batch_size=study.batch,
                keep_outputs=False,
            )
        (name,) = table.models
        valid = {task: float(table.mean(name, task)) for task in table.tasks}
        return Verdict(
            fitness(valid, study.tasks.weights, study.objective),
            valid,
            seconds=time.perf_counter() - wall,
            cpu_seconds=time.process_time() - cpu,
            examples=table.evaluated,
            cached=table.evaluated == 0,
            fingerprint=table.fingerprints[name],
        )


def build_evaluator(study: Study, where: str, ledger: Path, plugin: Path | None = None) -> ModelEvaluator:
    """A worker's evaluator: models in memory, ledger open. Importable, so that a process pool can call it.

    Args:
        study, where: as for `OpenedStudy.open`.
        ledger: where outcomes are kept.
        plugin: the file of the method, which another process does not know yet.
    """
    from genepool.merging import all_methods, load_plugin
    from genepool.tasks import LanguageModel, Ledger

    if plugin is not None and study.method not in all_methods():
        load_plugin(plugin)
    with torch_threads(study.threads):
        opened = OpenedStudy.open(study, where, resident=True)
        # From the merge, not from the base: a skill may bring a head of its own where the base ties it.
        model = LanguageModel.load(opened.plan.weights())
    return ModelEvaluator(opened, model, Ledger(ledger))
