"""Writes docs/learners.md from the cells: what every learner scored, kept and cost, and the claims.

Nothing is measured here. What is missing is said: a row without all seeds says how many it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.by_arm import mean_with_interval
from benchmarks.claims.judged import OPEN, JudgedClaim
from benchmarks.claims.verdict import FAILS, HOLDS
from benchmarks.claims.worlds import GENERIC
from benchmarks.learners import peer
from benchmarks.learners.arms import ARMS, CHOOSING, LearnerArm
from benchmarks.learners.cells import SequenceCell, SequenceCells
from benchmarks.learners.claims import CLAIMS, SEEDS, OrderedClaim, ask
from benchmarks.learners.worlds import (
    ASKED,
    BATCH,
    DIGITS_RATE,
    ORDERS,
    PAIR_STEPS,
    RANK,
    RATE,
    SHOT_STEPS,
    SHOWN,
    STEPS,
    WORLDS,
)
from genepool.staging import write_text

DOCS = Path(__file__).parent.parent.parent / "docs"


def write(folder: Path = DOCS) -> None:
    """Writes the page."""
    write_text(folder / "learners.md", page(SequenceCells()))


def page(cells: SequenceCells) -> str:
    """The page's text."""
    head = _HEAD.format(
        seeds=SEEDS, steps=STEPS, batch=BATCH, rank=RANK, rate=f"{RATE:g}", asked=ASKED, choosing=CHOOSING,
        forwards=", ".join(ORDERS["forwards"]), digits_rate=f"{DIGITS_RATE:g}", pairs=PAIR_STEPS, shots=SHOT_STEPS,
        shown=SHOWN,
    )  # fmt: skip
    parts = [head]
    for world in WORLDS:
        for order, tasks in world.orders.items():
            own = [arm for arm in ARMS if arm.world is world]
            if rows := [row for arm in own if (row := _row(cells, arm, order))]:
                parts += [f"## {order.capitalize()}: {', '.join(tasks)}", "", *_ROWS_HEAD, *rows, ""]
    if beside := peer.table(cells):
        parts += [*beside, ""]
    return "\n".join([*parts, *_claims(cells)]) + "\n"


def _row(cells: SequenceCells, arm: LearnerArm, order: str) -> str:
    seeds = [seed for seed in cells.seeds([arm.name], [order]) if seed < SEEDS]
    found = [cells[arm.name, order, seed] for seed in seeds]
    if not found:
        return ""
    in_order = all(cell.in_order for cell in found)
    parts = [
        arm.name,
        arm.words,
        _spread(found, lambda cell: cell.average),
        _spread(found, lambda cell: cell.learned),
        _spread(found, lambda cell: cell.backward) if in_order else "",
        _spread(found, lambda cell: cell.score(-1, GENERIC)) if GENERIC in found[0].marks[-1] else "",
        f"{np.mean([cell.memory for cell in found]):,.0f}",
        f"{np.mean([cell.seconds for cell in found]):.1f}",
    ]
    return f"| {' | '.join(parts)} |"


def _spread(found: Sequence[SequenceCell], of: Callable[[SequenceCell], float]) -> str:
    """The mean over the seeds with half of its interval, and how many seeds, unless all."""
    return mean_with_interval([of(cell) for cell in found], SEEDS)


def _claims(cells: SequenceCells) -> list[str]:
    asked = ask(cells)
    verdicts = [one.verdict for one in asked]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, OPEN))
    waiting = [claim.name for claim in CLAIMS if claim.name not in {one.claim.name for one in asked}]
    return [
        _CLAIMS_HEAD.format(seeds=SEEDS),
        *(f"- **{claim.name}**: {claim.rule.words}." for claim in CLAIMS),
        "",
        "| claim | source | seeds | first order | second order | verdict | remark |",
        "|---|---|--:|---|---|---|---|",
        *(_claim(one) for one in asked),
        "",
        f"Of {len(asked)} claims: {counts}.",
        *(["", f"Not measured yet: {', '.join(waiting)}."] if waiting else []),
    ]


def _claim(one: JudgedClaim[OrderedClaim]) -> str:
    claim = one.claim
    remarks = [claim.remark] if claim.remark else []
    if one.verdict != OPEN and claim.rule.wants_more:
        backward = [order for order, figure in one.figures.items() if figure.hi < 0]
        remarks += [f"the reverse is seen {order}" for order in backward]
    figures = " | ".join(figure.text() for figure in one.figures.values())
    return (
        f"| {claim.words} ({claim.name}) | {claim.source} | {len(one.seeds)} | {figures} | {one.verdict} | "
        f"{'; '.join(remarks)} |"
    )


_HEAD = """\
# Learners

What is claimed of learning tasks one after another, asked on a small testbed. `python -m benchmarks.learners` measures
and writes this page; it goes on where it was stopped. `benchmarks/learners/cells.jsonl` keeps the mark of each test
example after every task. [Learn tasks in order](how-to/learn-tasks-in-order.md) says what the learners are.

- The testbed is that of `genepool testbed build --tiny`: a Llama with a width of 64 that was trained on strings. The
  tasks are its four skills, which the base hardly has. *General* is the task that the base is trained for; no learner
  is told of it.
- The orders are {forwards}, and the same backwards. The testbed is trained anew with every one of {seeds} seeds, which
  also draw every order of examples and every sample.
- Every learner trains factors of rank {rank}: {steps} steps of {batch} examples for each task, at a learning rate of
  {rate}. The last state of a task counts.
- Digits are asked in two further worlds, where the base is an untrained vision transformer of the tiny testbed and all
  weights are trained, at {digits_rate}: two digits a task, {pairs} steps each; and six digits with all of their images,
  then one digit after the other with {shown} images, {shots} steps each.
- Two settings were chosen by the average on a testbed with seed {choosing}, which no claim uses: EWC's weight (100, of
  100, 1,000 and 10,000) and the decay of the slow weights (0.99, of 0.9 and 0.99). All others are defaults.
- After every task, every task is asked {asked} test examples. *Average* (ACC) is the mean over the four tasks in the
  end, *learned* the mean right after each was learned, and *backward* (BWT) the mean of what the first three are in the
  end minus what they were then.
- *Memory* is what is kept in the end beside the model: bytes of tensors, and of the texts of examples.
- ± is half of the 95% interval, Student's t over the seeds. A number in parentheses says how many seeds are there,
  where it is not all {seeds}. Seconds are those of the processor, with the questions, on a machine that was shared.
"""
_ROWS_HEAD = (
    "| | what it is | average | learned | backward | general | memory | CPU s |",
    "|---|---|--:|--:|--:|--:|--:|--:|",
)
_CLAIMS_HEAD = """\
## Claims

A claim holds if its rule is true in both orders. The rules were written before the measurements; a claim that fails
stays failed. Intervals are those of [the other claims](claims.md), over seeds and examples; those of backward transfer
are over the seeds alone. A verdict is given when all {seeds} seeds are there.
"""
