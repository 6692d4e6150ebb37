"""Writes docs/samplers.md from the cells: what every arm scored and cost, and the claims. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.by_arm import mean_with_interval
from benchmarks.claims.judged import OPEN, JudgedClaim
from benchmarks.claims.verdict import FAILS, HOLDS, UNASKED
from benchmarks.composition.cells import Cells
from benchmarks.learning.bed import BATCH, KIND
from benchmarks.learning.claim import SEEDS, LearningClaim, ask, key_of
from benchmarks.samplers.asked import ARMS, CLAIMS, known_cells
from benchmarks.samplers.bed import COUNTS, FOUR, RATE, STEPS
from genepool.staging import write_text

DOCS = Path(__file__).parent.parent.parent / "docs"


def write(folder: Path = DOCS) -> None:
    """Writes the page."""
    write_text(folder / "samplers.md", page(known_cells()))


def page(cells: Cells) -> str:
    """The page's text."""
    head = _HEAD.format(seeds=SEEDS, steps=STEPS, batch=BATCH, rate=f"{RATE:g}", asked=COUNTS["test"])
    rows = [row for arm in ARMS if (row := _arm(cells, arm.name, arm.words))]
    return "\n".join([head, *_ARMS_HEAD, *rows, "", *_claims(cells)]) + "\n"


def _arm(cells: Cells, name: str, words: str) -> str:
    found = [cells[key_of(name, seed)] for seed in cells.seeds(KIND.name, name, 0)]
    if not found:
        return ""
    scores = [task for task in found[0].scores if task in FOUR] or list(found[0].scores)
    means = [float(np.mean([cell.scores[task].mean() for task in scores])) for cell in found if scores]
    mean = mean_with_interval(means, SEEDS) if means else ""
    numbers = found[0].said.get("numbers", {})
    said = [
        f"{one}: {mean_with_interval([float(cell.said['numbers'][one]) for cell in found], SEEDS)}" for one in numbers
    ]
    steps = f"{np.mean([cell.said['steps'] for cell in found]):,.0f}"
    seconds = f"{np.mean([cell.seconds for cell in found]):.1f}"
    tasks = ", ".join(scores)
    return f"| {' | '.join([name, words, mean, tasks, '; '.join(said), steps, seconds])} |"


def _claims(cells: Cells) -> list[str]:
    asked = ask(cells, CLAIMS)
    verdicts = [one.verdict for one in asked]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, UNASKED, OPEN))
    known = {one.claim.name for one in asked}
    waiting = [claim.name for claim in CLAIMS if claim.name not in known]
    return [
        _CLAIMS_HEAD.format(seeds=SEEDS),
        *(f"- **{claim.name}**: {claim.rule.words}." for claim in CLAIMS),
        "",
        "| claim | source | seeds | our figure | verdict | remark |",
        "|---|---|--:|---|---|---|",
        *(_claim(one) for one in asked),
        "",
        f"Of {len(asked)} claims: {counts}.",
        *(["", f"Not measured yet: {', '.join(waiting)}."] if waiting else []),
    ]


def _claim(one: JudgedClaim[LearningClaim]) -> str:
    claim, main = one.claim, one.figures["main"]
    remarks = [claim.remark] if claim.remark else []
    if one.verdict == FAILS:
        # A claim of more fails below 0, and one of less above it.
        turned = main.hi < 0 if claim.rule.wants_more else main.lo > 0
        remarks.append("the reverse is seen" if turned else "no difference seen" if main.lo <= 0 <= main.hi else "")
    told = "; ".join(remark for remark in remarks if remark)
    return (
        f"| {claim.words} ({claim.name}) | {claim.source} | {len(one.seeds)} | {main.text()} | {one.verdict} | {told} |"
    )


_HEAD = """\
# Samplers, measured

What is claimed of samplers, asked on small testbeds. `python -m benchmarks.samplers` measures and writes this page; it
goes on where it was stopped. `benchmarks/samplers/cells.jsonl` keeps the mark of each test example.
[Samplers](reference/samplers.md) says what they are.

- Trainings are `genepool train` with low-rank factors on the testbed of `genepool testbed build --tiny`, a Llama with a
  width of 64 that was trained on strings: {steps} steps of {batch} examples at a learning rate of {rate}, if the table
  says no other number. The last state counts.
- Arms that a claim compares differ in the sampler alone: base, examples, steps and rate are the same. Controls are
  draws by size (uniform), equal parts (stratified), and the same sampler with shuffled evidence (permuted).
- The base is trained once. Each of {seeds} seeds draws the examples that are written here, their order, and every
  sample; the mixture and the pools are the same for every seed.
- Tasks that are written for this page are asked {asked} test examples, the testbed's own up to 512.
- ± is half of the 95% interval, Student's t over the seeds. A number in parentheses says how many seeds are there,
  where it is not all {seeds}. Seconds are those of the processor, on a machine that was shared; what several
  arms share (transfer between poles, earlier students, a model that has begun) counts with the one that was first.
"""
_ARMS_HEAD = (
    "## Arms",
    "",
    "| | what it is | score | of | further | steps | CPU s |",
    "|---|---|--:|---|---|--:|--:|",
)
_CLAIMS_HEAD = """\
## Claims

A claim holds if its rule is true. The rules were written before the measurements; a claim that fails stays failed. A
*minus* B means the figure of A minus that of B. Intervals and verdicts are those of [the other claims](claims.md). A
verdict is given when all {seeds} seeds are there; of fewer seeds the figure is shown, from two on.
"""
