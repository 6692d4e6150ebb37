"""Writes docs/composition.md and its picture from the cells: scores against examples, other composers, and claims.

Nothing is measured here. What is missing is said: in the table of how much is there, and as an empty entry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.claims.verdict import FAILS, HOLDS, UNASKED, student
from benchmarks.claims.worlds import GENERIC, LIMITS
from benchmarks.composition.arms import (
    ADAPTERS,
    ARMS,
    BESIDE,
    CURVES,
    ONE,
    OTHERS,
    REFERENCES,
    ROUTED,
    SHORT,
    SIZES,
    Arm,
)
from benchmarks.composition.bed import FULL, FURTHER, PAIR_TASKS, PAIRS, SMALL, TINY
from benchmarks.composition.cells import Cell, Cells, Key
from benchmarks.composition.claims import CLAIMS, OPEN, UNASKED_CLAIMS, Asked, ask, missing_cells
from benchmarks.composition.curves import SEEDS, cells_of, grid
from benchmarks.composition.picture import draw
from benchmarks.composition.shared_modules import HEADS
from genepool.staging import write_text

DOCS = Path(__file__).parent.parent.parent / "docs"
PICTURE = "composition-curves.svg"


def write(folder: Path = DOCS) -> None:
    """Writes the page and the picture, of the full testbeds where anything is known of them, and of the small ones."""
    tiny, full = cells_of(full=False), cells_of(full=True)
    write_text(folder / "composition.md", page(tiny, full))
    write_text(folder / PICTURE, draw(tiny, [kind.name for kind in TINY]))


def page(tiny: Cells, full: Cells) -> str:
    """The page's text."""
    names = [kind.name for kind in TINY]
    small = "\n".join(f"    - **{kind.name}**: {kind.words}." for kind in SMALL)
    parts = [_HEAD.format(seeds=SEEDS, short=SHORT, small=small, **LIMITS)]
    parts += _presence(tiny, [kind.name for kind in SMALL])
    parts += [_CURVES_HEAD.format(picture=PICTURE)]
    for bed in names:
        parts += [f"### {bed}", "", *_curves(tiny, bed), ""]
    parts += [
        _OTHERS_HEAD.format(one=ONE, heads=HEADS),
        *_others(tiny, names),
        "",
        *_further(tiny),
        *_claims(tiny, full),
    ]
    measured = [kind.name for kind in FULL if any(key.bed == kind.name for key in full)]
    if measured:
        parts += ["", _FULL_HEAD, *_presence(full, measured)]
        for bed in measured:
            parts += [f"### {bed}", "", *_curves(full, bed), ""]
        parts += _others(full, measured)
    return "\n".join(parts) + "\n"


def _presence(cells: Cells, beds: Sequence[str]) -> list[str]:
    lines = [f"| testbed | {' | '.join(f'seed {seed}' for seed in range(SEEDS))} |", "|---|" + "--:|" * SEEDS]
    for bed in beds:
        counts = []
        for seed in range(SEEDS):
            keys = [key for _, key in grid(ARMS, bed, seed, SIZES)]
            counts.append(f"{sum(key in cells for key in keys)} of {len(keys)}")
        lines.append(f"| {bed} | {' | '.join(counts)} |")
    return [*lines, ""]


def _curves(cells: Cells, bed: str) -> list[str]:
    """A row an arm, a column a number of examples; the general task and the seconds of a fit at one of them."""
    lines = [
        f"| | {' | '.join(map(str, SIZES))} | general task | CPU s of a fit |",
        "|---|" + "--:|" * (len(SIZES) + 2),
    ]
    for arm in _at(bed, (*REFERENCES, *CURVES)):
        scores = [spread(cells, bed, arm.name, size) if size in arm.sizes else "" for size in SIZES]
        size = ONE if ONE in arm.sizes else arm.sizes[0]
        lines.append(f"| {arm.name} | {' | '.join(scores)} | {_general(cells, bed, arm.name, size)} | "
                     f"{_seconds(cells, bed, arm.name, size)} |")  # fmt: skip
    return lines


def _others(cells: Cells, beds: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for bed in beds:
        rows = []
        for arm in _at(bed, (*ADAPTERS, *OTHERS, *BESIDE, *ROUTED)):
            for size in arm.sizes:
                rows += _row_of(cells, bed, arm, size)
        if rows:
            lines += [f"### Others on {bed}", "", *_heads(bed), *rows, ""]
    return lines


def _further(cells: Cells) -> list[str]:
    """A table for each testbed of one question, with all its arms."""
    lines = [_FURTHER_HEAD.format(one=ONE)]
    for kind in FURTHER:
        arms = _at(kind.name, (*REFERENCES, *CURVES, *ADAPTERS, *OTHERS, *BESIDE, *ROUTED))
        rows = [row for arm in arms for size in arm.sizes_on(kind.name) for row in _row_of(cells, kind.name, arm, size)]
        if rows:
            lines += [f"### {kind.name}", "", *_heads(kind.name), *rows, ""]
            if kind.name == PAIRS:
                lines += [*_each_pair(cells), ""]
    return lines


def _heads(bed: str) -> list[str]:
    names = ["examples a task", *(["two skills in turn"] if bed == PAIRS else []), "skills", "general task"]
    return [f"| | {' | '.join(names)} | CPU s of a fit |", "|---|" + "--:|" * (len(names) + 1)]


def _row_of(cells: Cells, bed: str, arm: Arm, size: int) -> list[str]:
    """The row of an arm with a number of examples, where it was measured."""
    scores = [
        spread(cells, bed, arm.name, size, pairs=pairs) for pairs in ((True, False) if bed == PAIRS else (False,))
    ]
    if not scores[0]:
        return []
    told = [arm.name, str(size) if size else "none", *scores, _general(cells, bed, arm.name, size)]
    return [f"| {' | '.join(told)} | {_seconds(cells, bed, arm.name, size)} |"]


def _each_pair(cells: Cells) -> list[str]:
    """What the base and the specialists can do of each pair by itself, which no composition is needed for."""
    lines = ["| two skills in turn | base | better of two specialists | best static merge | adamerging, match |"]
    lines += ["|---|--:|--:|--:|--:|"]
    arms = [("base", 0), ("specialists, task known", 0), ("best static merge", 0), ("adamerging, match", ONE)]
    for pair in PAIR_TASKS:
        found = []
        for arm, size in arms:
            marks = [cells[Key(PAIRS, seed, arm, size)].scores[pair].mean() for seed in cells.seeds(PAIRS, arm, size)]
            found.append(f"{np.mean(marks):.3f}" if marks else "")
        lines.append(f"| {pair} | {' | '.join(found)} |")
    return lines


def _at(bed: str, arms: Iterable[Arm]) -> list[Arm]:
    return [arm for arm in arms if bed in arm.beds]


def spread(cells: Cells, bed: str, arm: str, size: int, *, pairs: bool = False) -> str:
    """The mean over tasks and seeds, with half of its interval; how many seeds, unless all.

    Args:
        cells: what was measured.
        bed, arm, size: which.
        pairs: of the tasks of two skills in turn, instead of those of the skills.
    """
    seeds = cells.seeds(bed, arm, size)
    means = [_mean(cells[Key(bed, seed, arm, size)], pairs) for seed in seeds]
    if not means or math.isnan(means[0]):
        return ""
    told = f"{np.mean(means):.3f}"
    if len(means) > 1:
        told += f" ± {student(len(means)) * float(np.std(means, ddof=1)) / math.sqrt(len(means)):.3f}"
    return told if len(seeds) == SEEDS else f"{told} ({len(seeds)})"


def _mean(cell: Cell, pairs: bool) -> float:
    """NaN where there are no such tasks."""
    found = [marks.mean() for task, marks in cell.scores.items() if (task in PAIR_TASKS) == pairs and task != GENERIC]
    return float(np.mean(found)) if found else math.nan


def _general(cells: Cells, bed: str, arm: str, size: int) -> str:
    found = [cells[Key(bed, seed, arm, size)].scores.get(GENERIC) for seed in cells.seeds(bed, arm, size)]
    means = [float(marks.mean()) for marks in found if marks is not None]
    return f"{np.mean(means):.3f}" if means else ""


def _seconds(cells: Cells, bed: str, arm: str, size: int) -> str:
    found = [cells[Key(bed, seed, arm, size)].seconds for seed in cells.seeds(bed, arm, size)]
    return f"{np.mean(found):.1f}" if found and any(found) else ""


def _claims(tiny: Cells, full: Cells) -> list[str]:
    asked = [*ask(tiny), *ask(full)]
    verdicts = [one.verdict for one in asked]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, UNASKED, OPEN))
    return [
        _CLAIMS_HEAD.format(seeds=SEEDS),
        *(f"- **{claim.name}**: {claim.rule.words}." for claim in CLAIMS),
        "",
        "| claim | source | testbed | seeds | our figure | verdict | remark |",
        "|---|---|---|--:|---|---|---|",
        *(_row(one) for one in asked),
        "",
        f"Of {len(asked)} rows: {counts}.",
        "",
        *(f"- Not asked: **{name}**: {why}." for name, why in UNASKED_CLAIMS.items()),
        *_undecided(tiny),
    ]


def _undecided(cells: Cells) -> list[str]:
    """What is missing of claims on the small testbeds."""
    lines = []
    for claim in CLAIMS:
        for bed in (kind.name for kind in SMALL if kind.name in claim.beds):
            lacks = [
                f"{arm} (seeds {', '.join(map(str, seeds))})"
                for (arm, _), seeds in missing_cells(cells, bed, claim.needs).items()
            ]
            if lacks:
                lines.append(f"- Not decided: **{claim.name}** on {bed}, for want of {'; '.join(lacks)}.")
    return lines


def _row(one: Asked) -> str:
    claim, main = one.claim, one.figures["main"]
    remarks = [claim.remark] if claim.remark else []
    if one.verdict != OPEN and claim.rule.wants_more and main.lo <= 0:
        remarks.append("the reverse is seen" if main.hi < 0 else "no difference seen")
    if "guard" in one.figures:
        guard = one.figures["guard"]
        remarks.append(f"the general task changes by {guard.difference:+.3f} [{guard.lo:+.3f}, {guard.hi:+.3f}]")
    return (
        f"| {claim.words} ({claim.name}) | {claim.source} | {one.bed} | {len(one.seeds)} | {main.text()} | "
        f"{one.verdict} | {'; '.join(remarks)} |"
    )


_HEAD = """\
# Composition

How good composers are with how many examples, and what is claimed of them. `python -m benchmarks.composition` measures
and writes this page; it goes on where it was stopped. `benchmarks/composition/cells-tiny.jsonl` keeps the mark of each
test example.

- The testbeds are those of `genepool testbed build`; what is called tiny is built with `--tiny`:
{small}
- Each is trained anew with every one of {seeds} seeds, which also draw the examples and decide every fit. `--full`
  measures the testbeds digits and text at full size, with all their skills.
- A composer gets the same training examples of each skill's task as the routers do. It is not given the general task.
- Fits by gradient take at most {short} steps on these testbeds, and otherwise the composers' defaults. A quarter of the
  examples is held out and tells when to stop.
- What is chosen (the best static merge, factors, scales) is chosen on the validation split, with at most {valid}
  examples of each task.
- Scores are of the test split, at most {test} examples of each task: the mean over the skills' tasks, and apart from it
  the general task, which the base answers best. ± is half of the 95% interval, Student's t over the seeds. A number in
  parentheses says how many seeds are there, where it is not all {seeds}.
- Seconds are those of the processor, on a machine that was shared.

How many cells are there:
"""
_CURVES_HEAD = """\
## Score against examples

*best static merge*: the best of averaging, task arithmetic, TIES, TSV-M and Iso-C. *routed*: each input is answered by
the specialist that a router chooses by the base's features (linear discriminant analysis, or the nearest mean), so all
specialists are kept. The text testbed's prompts name their skill, so there any router is right. With 0 examples a
composer is what its fit begins at: a sum with one factor, the base (atlas), or the plain average (regmean, fisher).

![Mean score over the skills against examples of each task, for eight composers and the references]({picture})
"""
_OTHERS_HEAD = """\
## Other composers

With {one} examples of each task, with another number where it is said, or with none where none are used. *task known*:
whoever asks says whose task it is. *chosen*: a scale is chosen on the validation split. Arrow, LoRA-Flow, X-LoRA and
K-shot experts mix the adapters token by token. *New task*: modules learn from the examples of the other skills' tasks
(300 steps), and then from those of the task that is asked (100 steps); modules have rank 4, and MHR {heads} heads.
ICM-LoRA learns from the other skills' adapters; the nearest task is the one whose inputs look most alike.
"""
_FURTHER_HEAD = """\
## Testbeds of one question

With {one} examples of each skill's task, where any are used; *given the pairs* means examples of the tasks of two
skills in turn instead.

- **untagged-tiny**: does a router still choose right, where no prompt names its skill?
- **pairs-tiny**: does a composition do what none of its parts was trained for? The base heard of pairs in training: it
  obeys each half of a tag in 40% of the examples, so the specialist of one half can do some of a pair by itself. What
  is chosen on validation is chosen on the pairs. *Task known* is the better of a pair's two specialists. One pair tells
  little: `sort` alone does over half of `sort_upper`. The second table has every pair by itself.
- **sentences**: is it the same with a real model and real texts?
"""
_FULL_HEAD = """\
## The testbeds of full size

All specialists, and the composers' default steps. `python -m benchmarks.composition --full` measures this.
"""
_CLAIMS_HEAD = """\
## Claims

A claim holds if its rule is true. The rules were written before the measurements; a claim that fails stays failed. A
*minus* B means the score of A minus the score of B. Intervals and verdicts are those of [the other claims](claims.md).
A verdict is given when all {seeds} seeds are there, since the rules are about these. Of fewer seeds the figure is
shown, from two on.
"""
