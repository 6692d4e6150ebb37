"""Writes docs/learning.md from the cells: what every arm scored and cost, and the claims.

Nothing is measured here. What is missing is said: a row without all seeds says how many it has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.by_arm import mean_with_interval
from benchmarks.claims.judged import OPEN, JudgedClaim
from benchmarks.claims.verdict import FAILS, HOLDS, UNASKED
from benchmarks.claims.worlds import GENERIC, LIMITS
from benchmarks.composition.cells import Cell, Cells
from benchmarks.learning.arm import LONG_RATES, SAMPLES, Arm
from benchmarks.learning.bed import BATCH, HALF, KIND, LABELS, LESS, PROMPTS, RATES, STEPS, TARGET, WRONG
from benchmarks.learning.claim import SEEDS, LearningClaim, ask, key_of
from benchmarks.learning.families import ARMS, CLAIMS
from benchmarks.learning.measured import FIRST, known_cells
from genepool.staging import write_text
from genepool.testbed.skills import SKILLS

DOCS = Path(__file__).parent.parent.parent / "docs"


def write(folder: Path = DOCS) -> None:
    """Writes the page."""
    write_text(folder / "learning.md", page(known_cells()))


def page(cells: Cells) -> str:
    """The page's text."""
    head = _HEAD.format(
        seeds=SEEDS, target=TARGET, steps=STEPS, batch=BATCH, labels=LABELS, rates=", ".join(f"{r:g}" for r in RATES),
        long=f"{LONG_RATES[0]:g}", prompts=PROMPTS, samples=SAMPLES, half=HALF, less=LESS,
        wrong=f"{100 * WRONG:.0f}", **LIMITS,
    )  # fmt: skip
    rows = [row for arm in ARMS if (row := _arm(cells, arm))]
    return "\n".join([head, *_ARMS_HEAD, *rows, "", *_ends(cells), *_claims(cells)]) + "\n"


def _arm(cells: Cells, arm: Arm) -> str:
    seeds = cells.seeds(KIND.name, arm.name, 0)
    found = [cells[key_of(arm.name, seed)] for seed in seeds]
    if not found:
        return ""
    timed = [cell.seconds for seed, cell in zip(seeds, found, strict=True) if seed != FIRST or len(seeds) == 1]
    beside = [name for name in found[0].scores if name not in (TARGET, GENERIC)]
    others = [name for name in beside if name in SKILLS]
    said = [f"{name}: {_spread(found, [name])}" for name in beside if name not in SKILLS]
    said += [f"{name}: {_number(found, name)}" for name in found[0].said.get("numbers", {})]
    rates = sorted({cell.said["rate"] for cell in found})
    parts = [
        arm.name, arm.words, _spread(found, [TARGET]), _spread(found, [GENERIC]), _spread(found, others),
        *(_mean(found, name) for name in ("steps", "generated", "labels")),
        ", ".join(f"{rate:g}" for rate in rates if rate), f"{np.mean(timed):.1f}", "; ".join(said),
    ]  # fmt: skip
    return f"| {' | '.join(parts)} |"


def _spread(found: list[Cell], tasks: list[str]) -> str:
    """The mean over tasks and seeds with half of its interval, and how many seeds, unless all; empty if not asked."""
    if not tasks or tasks[0] not in found[0].scores:
        return ""
    return mean_with_interval([float(np.mean([cell.scores[task].mean() for task in tasks])) for cell in found], SEEDS)


def _number(found: list[Cell], name: str) -> str:
    """The same of a number that an arm says of itself."""
    return mean_with_interval([float(cell.said["numbers"][name]) for cell in found], SEEDS)


def _mean(found: list[Cell], name: str) -> str:
    mean = float(np.mean([cell.said[name] for cell in found]))
    return f"{mean:,.0f}" if mean else ""


def _end(cells: Cells, name: str) -> str:
    """Whether an arm's rate is the lowest or the highest that was tried; empty where it is neither, or not chosen."""
    (arm,) = (arm for arm in ARMS if arm.name == name)
    key = key_of(name, FIRST)
    if len(arm.rates) == 1 or key not in cells:
        return ""
    return {min(arm.rates): "lowest", max(arm.rates): "highest"}.get(cells[key].said["rate"], "")


def _ends(cells: Cells) -> list[str]:
    """Arms whose rate ends their grid: a further one might be better."""
    found = [(arm.name, _end(cells, arm.name)) for arm in ARMS]
    said = [
        f"The {word} rate that was tried was chosen for: {'; '.join(names)}."
        for word in ("lowest", "highest")
        if (names := [name for name, end in found if end == word])
    ]
    return [*said, "A rate beyond those that were tried might be better for them.", ""] if said else []


def _claims(cells: Cells) -> list[str]:
    asked = ask(cells, CLAIMS)
    verdicts = [one.verdict for one in asked]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, UNASKED, OPEN))
    known = {one.claim.name for one in asked}
    waiting = [_waiting(cells, claim) for claim in CLAIMS if claim.name not in known]
    return [
        _CLAIMS_HEAD.format(seeds=SEEDS),
        *(f"- **{claim.name}**: {claim.rule.words}." for claim in CLAIMS),
        "",
        "| claim | source | seeds | our figure | verdict | remark |",
        "|---|---|--:|---|---|---|",
        *(_claim(cells, one) for one in asked),
        "",
        f"Of {len(asked)} claims: {counts}.",
        *(["", f"Open, since cells are missing: {', '.join(waiting)}."] if waiting else []),
    ]


def _waiting(cells: Cells, claim: LearningClaim) -> str:
    """A claim that cannot be asked yet, and of how many seeds it has all cells."""
    seeds = set.intersection(*(set(cells.seeds(KIND.name, arm, 0)) for arm in claim.needs))
    return f"{claim.name} ({len(seeds)} of {SEEDS} seeds)"


def _claim(cells: Cells, one: JudgedClaim[LearningClaim]) -> str:
    claim, main = one.claim, one.figures["main"]
    remarks = [claim.remark] if claim.remark else []
    remarks += [f"{arm} has the {end} rate of its grid" for arm in claim.needs if (end := _end(cells, arm))]
    if one.verdict != OPEN and claim.rule.wants_more and main.lo <= 0:
        remarks.append("the reverse is seen" if main.hi < 0 else "no difference seen")
    if one.verdict == UNASKED and (why := claim.rule.unasked(one.figures)):
        remarks.append(why)
    if "guard" in one.figures:
        remarks.append(f"{claim.guards}: {one.figures['guard'].text()}")
    return (
        f"| {claim.words} ({claim.name}) | {claim.source} | {len(one.seeds)} | {main.text()} | {one.verdict} | "
        f"{'; '.join(remarks)} |"
    )


_HEAD = """\
# Learning

What is claimed of objectives, rewards and teachers, asked on a small testbed. `python -m benchmarks.learning` measures
and writes this page; it goes on where it was stopped. `benchmarks/learning/cells.jsonl` keeps the mark of each test
example.

- The testbed is that of `genepool testbed build --tiny`: a Llama with a width of 64 that was trained on strings. The
  skill that is learned is `{target}`. *General* is the task that the base is trained for; *others* are the three other
  skills, which the base hardly has.
- It is trained anew with every one of {seeds} seeds, which also draw every order and every sample.
- A training is `genepool train` with low-rank factors: {steps} steps of {batch} examples, of the same {labels} prompts.
  With rewards, a step has {prompts} prompts and {samples} samples of each. The last state counts.
- The learning rate of an arm is the best of {rates} on the validation split ({valid} examples) with seed 0, and the
  other seeds have the same. Trainings by rewards have {long}; loops and stages have rates of their own, which the arms
  of a claim share where nothing was chosen.
- Whatever a claim compares has equally many steps, unless its remark says otherwise. Steps, generated tokens and labels
  of every arm are in the table. Generated tokens are those that models wrote for the data or in the steps; one that is
  judged by a metric uses labels too. Of some trainings they count the answer to the one test example that the training
  itself is measured on, which is 6 tokens.
- The half-known model scores about {half}, the one that knows less about {less}: their numbers of steps are chosen on
  the validation split. They were trained on other examples. What they cost is not counted, since both sides of a claim
  begin with the same model.
- A rejected or wrong answer is the base's own: the first of 8 samples that is wrong. Of the labelled answers, {wrong}%
  are wrong: each prompt has a right one, and some a wrong one too.
- Some arms learn tasks of their own, which the base does not know: sums of four digits, Countdown, images of digits
  that are transformed or rearranged. Their scores, and numbers that an arm says of itself, stand in the last column.
- A loop draws its samples at temperature 1. What a loop costs is counted over all of its stages.
- Scores are of the test split, at most {test} examples of each task. ± is half of the 95% interval, Student's t over
  the seeds. A number in parentheses says how many seeds are there, where it is not all {seeds}.
- Seconds are those of the processor, where the rate was known, on a machine that was shared.
"""
_ARMS_HEAD = (
    "## Arms",
    "",
    "| | what it is | target | general | others | steps | generated tokens | labels | rates chosen | CPU s | further |",
    "|---|---|--:|--:|--:|--:|--:|--:|---|--:|---|",
)
_CLAIMS_HEAD = """\
## Claims

A claim holds if its rule is true. The rules were written before the measurements; a claim that fails stays failed. A
*minus* B means the score of A minus the score of B. Intervals and verdicts are those of [the other claims](claims.md).
A verdict is given when all {seeds} seeds are there, since the rules are about these. Of fewer seeds the figure is
shown, from two on.
"""
