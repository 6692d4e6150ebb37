"""What a candidate of a study is worth: the evaluator that every worker holds.

It keeps the base, the skills and one model in memory and applies each candidate to that model in place. Uses weights
and tasks; workers build one from the study alone.
"""

from __future__ import annotations

import hashlib
import time
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.evolution.candidates import Candidate, Verdict
from genepool.evolution.opened_study import OpenedStudy
from genepool.evolution.permissions import NOTHING, Permissions
from genepool.evolution.representations import Representation
from genepool.evolution.study import Study
from genepool.threads import torch_threads

if TYPE_CHECKING:
    from genepool.tasks import Example, Ledger, Model, OutcomeTable, Task
    from genepool.weights import Weights


def share_unchanged(weights: Weights, base: Weights) -> float:
    """The share of the base's entries that a model has as they are, to the last bit, in tensors of one shape."""
    import torch

    same = total = 0
    with torch.no_grad():
        for name in base.names():
            if name not in weights or weights.info(name).shape != base.info(name).shape:
                continue
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
        opened.representation.lend(model)
        self._shuffled: list[Task] | None = None

    @property
    def representation(self) -> Representation[Any, Any]:
        """What the study varies."""
        return self._opened.representation

    def __call__(self, candidate: Candidate) -> Verdict:
        """Applies a candidate in place and evaluates it; outcomes are durable in the ledger when this returns."""
        from genepool.tasks import evaluate

        study = self._opened.study
        wall, cpu = time.perf_counter(), time.process_time()
        with torch_threads(study.threads):
            weights = self._opened.representation.source(candidate)
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
            unchanged=share_unchanged(weights, self._opened.sources[study.reference])
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
    plugins: Collection[Path] = (),
    out: Path | None = None,
    resident: Collection[str] | None = None,
    sources: Mapping[str, Weights] | None = None,
    book: Ledger | None = None,
    trust: Permissions = NOTHING,
    device: str = "cpu",
) -> ModelEvaluator:
    """A worker's evaluator: models in memory, ledger open. Importable, so that a process pool can call it.

    Args:
        study, where, out: as for `OpenedStudy.open`.
        ledger: where outcomes are kept.
        plugins: files of a method and of metrics, which another process does not know yet.
        resident: as for `OpenedStudy.open`; all when None.
        sources: as for `OpenedStudy.open`.
        book: the ledger, where it is open already.
        trust: what the study may open.
        device: torch's name of the device.
    """
    from genepool.tasks import Ledger, open_model
    from genepool.tasks.plugins import load_missing

    load_missing(plugins)
    with torch_threads(study.threads):
        held = ("base", *(skill.name for skill in study.skills)) if resident is None else resident
        opened = OpenedStudy.open(study, where, out=out, resident=held, sources=sources, trust=trust, device=device)
        model = open_model(opened.representation.template()).load(device, study.compute)
    return ModelEvaluator(opened, model, book or Ledger(ledger))
