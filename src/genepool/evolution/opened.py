"""A study with its models and tasks opened and checked: what the driver plans with and every worker evaluates with.

Uses weights, merging and tasks. Opening reads headers and task files only; a worker's evaluator then holds the base,
the skills and one model in memory and applies each candidate to that model in place.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError, nearest
from genepool.evolution.breeding import Learner, Stock, make_stock
from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.genome import Space
from genepool.evolution.grounds import BreedingGround, Ground, MergeGround, founders_of, parsed
from genepool.evolution.singular import SingularGround
from genepool.evolution.strategies import strategy_entry
from genepool.evolution.strategies.base import UNCHANGED
from genepool.evolution.study import Objective, Study
from genepool.evolution.trust import NOTHING, Trust
from genepool.evolution.voting import can_vote
from genepool.threads import torch_threads
from genepool.weights.tensor_info import dtype_code

if TYPE_CHECKING:
    import numpy as np

    from genepool.tasks import Example, Ledger, Model, OutcomeTable, Task
    from genepool.weights import Weights


@dataclass
class OpenedStudy:
    """A study, its models (headers read) and its tasks (files read).

    Attributes:
        study: the study, its paths resolved.
        where: its file, for errors.
        sources: the base and the skills, by their model strings.
        ground: what it varies.
        tasks: the chosen tasks.
        device: torch's name of the device that models are asked on.
    """

    study: Study
    where: str
    sources: Mapping[str, Weights]
    ground: Ground
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
        trust: Trust = NOTHING,
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
            base = open_weights(study.base, allow_pickle=trust.pickles)
            skills = {
                skill.model: open_weights(skill.model, base=base, allow_pickle=trust.pickles) for skill in study.skills
            }
        else:
            base, skills = sources[study.base], {skill.model: sources[skill.model] for skill in study.skills}
        tasks = _chosen(study, where, trust)
        for task in tasks:
            check_fits(task, open_model(base).kind, study.base)
        entry = strategy_entry(study.strategy.name, where=f"{where}:strategy.name")
        if entry.varies == "models":
            # Children are held in memory as they are; their founders are read where they lie.
            names = {skill.name: skill.model for skill in study.skills}
            founders = founders_of(skills, names, where)
            dtype = None if study.dtype is None else dtype_code(study.dtype)
            # What small steps add up to must not be rounded away in between.
            fine = study.learn is not None and study.learn.inherit
            held = "F32" if fine else getattr(entry.build, "held", None)
            stock = make_stock(base, founders, study.breed.form, dtype, where=where, held=held)
            ground = BreedingGround(stock, out, _learner(study, stock, tasks, device))
            return cls(study, where, {study.base: base, **skills}, ground, tasks, device)
        if entry.varies == "singular values":
            (skill,) = study.skills
            dtype = None if study.dtype is None else dtype_code(study.dtype)
            singular = SingularGround(base, skill.name, skills[skill.model], study.singular, dtype, where)
            return cls(study, where, {study.base: base, **skills}, singular, tasks, device)
        if sources is None:
            sources = _held(study, base, skills, resident, trust)
        merging = _merging(study, where, base, sources)
        return cls(study, where, merging.plan.sources, merging, tasks, device)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What the study reads, by content: fingerprints of models, digests of the examples that score candidates.

        Of a method from outside the package also its file.
        """
        study, code = self.study, self.ground.code()
        return {
            **({"method": code} if code else {}),
            "base": self.sources[study.base].fingerprint(),
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

    @cached_property
    def asks_unchanged(self) -> bool:
        """Whether the strategy wants to know how much of the base a candidate leaves as it is."""
        options = self.study.strategy.options
        named = [*(options.get("objectives") or ()), *(options.get("behaviours") or ())]
        return UNCHANGED in named and UNCHANGED not in [task.name for task in self.tasks]

    def worth(self, valid: Mapping[str, float]) -> float:
        """The fitness of these means of the tasks."""
        return fitness(valid, self.study.tasks.weights, self.study.objective)


def _learner(study: Study, stock: Stock, tasks: Sequence[Task], device: str) -> Learner | None:
    if study.learn is None:
        return None
    return Learner(
        stock,
        tasks,
        study.tasks.weights,
        study.learn,
        seed=study.seed,
        threads=study.threads,
        compute=study.compute,
        device=device,
    )


def _held(
    study: Study, base: Weights, skills: Mapping[str, Weights], resident: Collection[str], trust: Trust
) -> dict[str, Weights]:
    """Base and skills by their model strings, as many in memory as asked for."""
    from genepool.weights import load_resident, open_weights, stack_changes

    if "base" not in resident:
        return {study.base: base, **skills}
    held = load_resident(base)
    chosen = {skill.model for skill in study.skills if skill.name in resident}
    sources: dict[str, Weights] = {study.base: held}
    for name, weights in skills.items():
        # What is streamed must be a change on the base that is held, or its deltas would not be exact.
        if name in chosen:
            sources[name] = load_resident(weights, base=(base, held))
        else:
            sources[name] = open_weights(name, base=held, allow_pickle=trust.pickles)
    stack_changes([sources[skill.model] for skill in study.skills])
    return sources


def _merging(study: Study, where: str, base: Weights, sources: Mapping[str, Weights]) -> MergeGround:
    from genepool.merging import find_method, plan_merge
    from genepool.weights import infer_roles

    method = find_method(study.method, f"{where}:method")
    roles = infer_roles({name: base.info(name) for name in base.names()})
    space = Space(study, roles, method.parameters, where=where)
    start = space.genome(space.start)
    return MergeGround(space, plan_merge(parsed(space, start, study.seed, where), sources), where)


def _digest(task: Task) -> str:
    """SHA-256, hex, of what the task asks on validation and how."""
    return hashlib.sha256("\x1f".join([task.asking, *(e.key for e in task.examples("valid"))]).encode()).hexdigest()


def _chosen(study: Study, where: str, trust: Trust) -> list[Task]:
    """The study's tasks, with validation and test examples that are not the same ones."""
    from genepool.tasks import load_tasks

    tasks = load_tasks(study.tasks.dir, study.tasks.names, trusted=trust.tasks)
    names = [task.name for task in tasks]
    for name in study.tasks.weights:
        if name not in names:
            raise InputError(f"no task '{name}'", where=f"{where}:tasks.weights", fix=nearest(name, names))
    if not any(study.tasks.weights.get(name, 1.0) for name in names):
        raise InputError("no task has a weight above zero", where=f"{where}:tasks.weights", fix="Give one to a task")
    if study.ensemble and not any(can_vote(task) for task in tasks):
        raise InputError(
            "all tasks look for something within an answer, so right answers differ in wording and no vote agrees",
            where=f"{where}:ensemble",
            fix="Leave `ensemble` out, or add a task with exact_match or multiple_choice",
        )
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


def share_unchanged(weights: Weights, base: Weights) -> float:
    """The share of the base's entries that a model of its architecture has as they are, to the last bit."""
    import torch

    same = total = 0
    with torch.no_grad():
        for name in base.names():
            one = weights.read(name)
            same += int((one == base.read(name).to(one.dtype)).sum())
            total += one.numel()
    return same / total


class ModelEvaluator:
    """Scores candidates on the validation examples with one resident model.

    Args:
        opened: the study with resident models.
        model: a model of the base's architecture; every candidate is copied into it.
        ledger: where outcomes are kept; one that is there is not computed again.
    """

    def __init__(self, opened: OpenedStudy, model: Model, ledger: Ledger) -> None:
        self._opened, self._model, self._ledger = opened, model, ledger
        if isinstance(opened.ground, BreedingGround) and opened.ground.family.learner is not None:
            # One model is enough: a child is put into it to learn, and again to be judged.
            opened.ground.family.learner.use(model)
        self._shuffled: list[Task] | None = None

    @property
    def ground(self) -> Ground:
        """What the study varies."""
        return self._opened.ground

    def __call__(self, candidate: Candidate) -> Verdict:
        """Applies a candidate in place and evaluates it; outcomes are durable in the ledger when this returns."""
        from genepool.tasks import evaluate

        study = self._opened.study
        wall, cpu = time.perf_counter(), time.process_time()
        with torch_threads(study.threads):
            weights = self._opened.ground.weights(candidate)
            self._model.assign(weights)
            probing = bool(study.probe) and candidate.look == study.probe
            table = evaluate(
                [self._model],
                self._racing_tasks() if candidate.look else self._opened.tasks,
                split="valid",
                ledger=self._ledger,
                limit=None if candidate.final else candidate.look or study.tasks.valid,
                seed=study.seed,
                threads=study.threads,
                batch_size=study.batch,
                keep_outputs=probing,
            )
        (name,) = table.models
        scores = [table.scores(name, task) for task in table.tasks]
        valid = {task: float(row.mean()) for task, row in zip(table.tasks, scores, strict=True)}
        return Verdict(
            self._opened.worth(valid),
            valid,
            b"".join(row.astype("<f4").tobytes() for row in scores),
            seconds=time.perf_counter() - wall,
            cpu_seconds=time.process_time() - cpu,
            examples=table.evaluated,
            cached=table.evaluated == 0,
            fingerprint=table.fingerprints[name],
            behaviour=_behaviour(table) if probing else "",
            unchanged=share_unchanged(weights, self._opened.sources[study.base])
            if self._opened.asks_unchanged
            else None,
        )

    def _racing_tasks(self) -> list[Task]:
        """The tasks with the search's validation examples in the order of races."""
        if self._shuffled is None:
            from genepool.measure.racing import race_order

            study = self._opened.study
            self._shuffled = []
            for task in self._opened.tasks:
                examples = list(task.examples("valid"))[: study.tasks.valid]
                order = race_order([example.key for example in examples], study.seed)
                raced: dict[str, Sequence[Example]] = {"valid": [examples[i] for i in order]}
                splits = ChainMap(raced, dict(task.splits))
                self._shuffled.append(replace(task, splits=splits))
        return self._shuffled


def _behaviour(table: OutcomeTable) -> str:
    """SHA-256, hex, of what a model answered; empty where it wrote nothing that could be compared."""
    (name,) = table.models
    outputs = [output for task in table.tasks for output in table.outputs(name, task)]
    if any(output is None for output in outputs):
        return ""
    return hashlib.sha256("\x1f".join(map(str, outputs)).encode()).hexdigest()


def build_evaluator(
    study: Study,
    where: str,
    ledger: Path,
    plugin: Path | None = None,
    out: Path | None = None,
    resident: Collection[str] | None = None,
    sources: Mapping[str, Weights] | None = None,
    book: Ledger | None = None,
    trust: Trust = NOTHING,
    device: str = "cpu",
) -> ModelEvaluator:
    """A worker's evaluator: models in memory, ledger open. Importable, so that a process pool can call it.

    Args:
        study, where, out: as for `OpenedStudy.open`.
        ledger: where outcomes are kept.
        plugin: the file of the method, which another process does not know yet.
        resident: as for `OpenedStudy.open`; all when None.
        sources: as for `OpenedStudy.open`.
        book: the ledger, where it is open already.
        trust: what the study may open.
        device: torch's name of the device.
    """
    from genepool.merging import all_methods, load_plugin
    from genepool.tasks import Ledger, open_model

    if plugin is not None and study.method not in all_methods():
        load_plugin(plugin)
    with torch_threads(study.threads):
        held = ("base", *(skill.name for skill in study.skills)) if resident is None else resident
        opened = OpenedStudy.open(study, where, out=out, resident=held, sources=sources, trust=trust, device=device)
        model = open_model(opened.ground.model()).load(device, study.compute)
    return ModelEvaluator(opened, model, book or Ledger(ledger))
