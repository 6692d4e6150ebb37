"""Outcomes that no model gave: two tasks, an easy and a hard one, with tags and confidences."""

from __future__ import annotations

import numpy as np

from genepool.tasks import OutcomeTable
from genepool.tasks.example import Example
from genepool.tasks.ledger import Outcome
from genepool.tasks.table import TaskOutcomes


def made_table(name: str = "m", *, sure: bool = True, count: int = 40) -> OutcomeTable:
    """Two tasks of which the first is easy; every second example of both is tagged "even"."""
    draw = np.random.default_rng(2)
    examples, cells = {}, {}
    for task, rate in (("easy", 0.9), ("hard", 0.3)):
        examples[task] = [
            Example(f"{task}{i}", f"{i}?", ("x",), tags=("even",) if i % 2 == 0 else ()) for i in range(count)
        ]
        outcomes = []
        for _ in range(count):
            confidence = float(draw.uniform(0.5, 1))
            outcomes.append(Outcome(float(draw.random() < rate), "x", {"confidence": confidence} if sure else {}))
        cells[name, task] = TaskOutcomes(tuple(outcomes), 0)
    return OutcomeTable(cells, examples, {name: "f" * 64}, "test")
