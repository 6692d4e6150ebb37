"""Writes docs/streams.md from the cells: what every adapter issued along every bed, its cost, the trials, the claims.

Nothing is measured here. What is missing is said: a row without all seeds says how many it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.adaptation.arms import (
    ARMS,
    BEDS,
    COTTA_IMAGES,
    EVERY,
    HOMEOSTATIC_RATE,
    LATE,
    ROUNDS,
    SEEDS,
    SELF_RATE,
    SHORT,
    StreamArm,
    StreamBed,
)
from benchmarks.adaptation.cells import StreamCell, StreamCells
from benchmarks.adaptation.claims import CLAIMS, OPEN, JudgedStreamClaim, ask
from benchmarks.adaptation.measured import plan
from benchmarks.adaptation.trials.asked import TRIALS, ask_trials
from benchmarks.adaptation.trials.asked import missing as missing_trials
from benchmarks.adaptation.trials.tables import tables
from benchmarks.adaptation.trials.trial import TrialCells
from benchmarks.claims.verdict import FAILS, HOLDS, UNASKED, Contrast, Figure, student
from genepool.staging import write_text

DOCS = Path(__file__).parent.parent.parent / "docs"
_MEGABYTE = 1e6


def write(folder: Path = DOCS) -> None:
    """Writes the page."""
    write_text(folder / "streams.md", page(StreamCells(), TrialCells()))


def page(cells: StreamCells, trials: TrialCells) -> str:
    """The page's text."""
    missing = sum(name not in cells for name in plan()) + len(missing_trials(trials))
    whole = len(plan()) + SEEDS * len(TRIALS)
    head = _HEAD.format(
        seeds=SEEDS, rounds=ROUNDS, every=EVERY, short=SHORT, images=COTTA_IMAGES, late=LATE,
        rate=f"{HOMEOSTATIC_RATE:g}", own=f"{SELF_RATE:g}",
    )  # fmt: skip
    parts = [head, *([f"Of {whole} cells, {missing} are not measured yet.", ""] if missing else [])]
    for bed in BEDS.values():
        if rows := [row for arm in ARMS if (row := _row(cells, arm, bed))]:
            parts += [
                f"## {bed.name.replace('_', ' ').capitalize()}",
                "",
                f"{bed.words[0].upper()}{bed.words[1:]}.",
                "",
            ]
            parts += [*_rows_head(bed), *rows, ""]
    return "\n".join([*parts, *_costs(cells), *tables(trials), _PEERS, *_claims(cells, trials)]) + "\n"


def _found(cells: StreamCells, arm: str, bed: str) -> dict[int, StreamCell]:
    """The cells of an arm by seed."""
    return {seed: cells[arm, bed, seed] for seed in cells.seeds([(arm, bed)]) if seed < SEEDS}


def _shown(bed: StreamBed) -> tuple[int, ...]:
    """The rounds that a table shows."""
    return tuple(number for number in bed.kept if number in (1, 3, ROUNDS))


def _rows_head(bed: StreamBed) -> list[str]:
    rounds = [f"round {number}" for number in _shown(bed)]
    names = ["", *rounds, "less frozen", "less diversity", "clean after", "kept", "alarms", "resets", "seeds"]
    return [f"| {' | '.join(names)} |", "|---|" + "--:|" * (len(names) - 1)]


def _row(cells: StreamCells, arm: StreamArm, bed: StreamBed) -> str:
    found = _found(cells, arm.name, bed.name)
    if not found:
        return ""
    frozen = Figure.of(
        [Contrast.of([c.rounds[c.last]], [c.frozen]) for c in found.values()], same_examples=bed.same_examples
    )
    control = _found(cells, "diversity", bed.name)
    both = [seed for seed in found if seed in control]
    against = ""
    if both and arm.name != "diversity":
        pairs = [(found[seed], control[seed]) for seed in both]
        contrasts = [Contrast.of(*([c.rounds[c.last]] for c in pair)) for pair in pairs]
        figure = Figure.of(contrasts, same_examples=bed.same_examples)
        against = _interval(figure) + (f" of {len(both)}" if len(both) < len(found) else "")
    clean = [c.clean[1].mean() for c in found.values() if c.clean]
    parts = [
        arm.name,
        *(_spread([c.score(number) for c in found.values()]) for number in _shown(bed)),
        _interval(frozen) if arm.name != "frozen" else "",
        against,
        f"{np.mean(clean):.3f}" if clean else "",
        f"{np.mean([c.kept for c in found.values()]):.2f}",
        f"{np.mean([c.alarms for c in found.values()]):.1f}",
        f"{np.mean([c.resets for c in found.values()]):.0f}",
        str(len(found)),
    ]
    return f"| {' | '.join(parts)} |"


def _interval(figure: Figure) -> str:
    return f"{figure.difference:+.3f} [{figure.lo:+.3f}, {figure.hi:+.3f}]"


def _spread(values: Sequence[float]) -> str:
    """The mean over the seeds, with half of its interval where there are several."""
    told = f"{np.mean(values):.3f}"
    if len(values) > 1:
        told += f" ± {student(len(values)) * float(np.std(values, ddof=1)) / math.sqrt(len(values)):.3f}"
    return told


def _costs(cells: StreamCells) -> list[str]:
    """Seconds of a batch as a multiple of the frozen model's, and what is held, on each kind of model."""
    beds = [BEDS[name] for name in ("mixed", "conv", "text")]
    names = [arm for arm in ARMS if not arm.only]
    head = ["", *(f"{bed.name}: time" for bed in beds), *(f"{bed.name}: held" for bed in beds)]
    rows = []
    for arm in names:
        parts: list[list[str]] = [[], []]
        for bed in beds:
            frozen = _found(cells, "frozen", bed.name)
            found = _found(cells, arm.name, bed.name)
            times = [cell.seconds / cell.beside for cell in found.values() if cell.beside]
            held = [(cell.held - frozen[seed].held) / _MEGABYTE for seed, cell in found.items() if seed in frozen]
            parts[0].append(f"{np.median(times):.1f}" if times else "")
            parts[1].append(f"{np.median(held):.2f}" if held else "")
        if any(parts[0]) or any(parts[1]):
            rows.append(f"| {' | '.join([arm.name, *parts[0], *parts[1]])} |")
    plain = [cell.beside for cell in _found(cells, "frozen", "mixed").values() if cell.beside]
    told = f"\nOne batch of the frozen model takes {1000 * np.median(plain):.1f} ms on mixed." if plain else ""
    return [
        _COSTS_HEAD + told,
        "",
        f"| {' | '.join(head)} |",
        "|---|" + "--:|" * (len(head) - 1),
        *rows,
        "",
    ]


def _claims(cells: StreamCells, trials: TrialCells) -> list[str]:
    asked = [*ask(cells), *ask_trials(trials)]
    verdicts = [one.verdict for one in asked]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, UNASKED, OPEN))
    known = [*CLAIMS, *(trial.claim for trial in TRIALS.values())]
    waiting = [claim.name for claim in known if claim.name not in {one.claim.name for one in asked}]
    return [
        _CLAIMS_HEAD.format(seeds=SEEDS),
        *(f"- **{claim.name}**: {claim.rule.words}." for claim in known),
        "",
        "| claim | source | seeds | our figure | verdict | remark |",
        "|---|---|--:|---|---|---|",
        *(_claim(one) for one in asked),
        "",
        f"Of {len(asked)} claims: {counts}.",
        *(["", f"Not measured yet: {', '.join(waiting)}."] if waiting else []),
        "",
        _NOT_HERE,
    ]


def _claim(one: JudgedStreamClaim) -> str:
    claim, main = one.claim, one.figures["main"]
    remarks = [claim.remark] if claim.remark else []
    if one.verdict != OPEN and claim.rule.wants_more and main.lo <= 0:
        remarks.append("the reverse is seen" if main.hi < 0 else "no difference seen")
    if why := claim.rule.unasked(one.figures):
        remarks.append(why)
    shown = {name: figure.text(one.places) for name, figure in one.figures.items()}
    remarks += [f"{name}: {text}" for name, text in shown.items() if name not in ("main", "cost")]
    return (
        f"| {claim.words} ({claim.name}) | {claim.source} | {len(one.seeds)} | {shown['main']} | {one.verdict} | "
        f"{'; '.join(remarks)} |"
    )


_HEAD = """\
# Adapters on streams

What is claimed of models that adapt while they are used, asked on small testbeds. `python -m benchmarks.adaptation`
measures and writes this page; it goes on where it was stopped. `benchmarks/adaptation/cells.jsonl` keeps the marks of
every example in rounds 1, 3 and {rounds}, and `trials/trials.jsonl` beside it what the trials further down came to.
[Adapt models to a stream](how-to/adapt.md) says how to run an adapter, and
the [reference](reference/stream-adapters.md) what each of them computes.

- The testbeds of the streams are those of `genepool testbed build --tiny`, one of each kind; the trials say what theirs
  are. Every figure of a stream is about its one base: the {seeds} seeds decide which examples are taken, their order,
  and all other draws.
- A batch has 64 examples. Of most streams of digits one example in {every} is taken, none by two seeds. A stream is
  gone through {rounds} times in one run, since one round hides a collapse; *correlated* is taken whole, so that its
  runs of labels stay long, and gone through {short} times. Where seeds share examples
  (*correlated*, *label shift*, *text*, *half known*, *swaps*, and the clean examples of all beds) their bootstraps are
  taken to move together.
- What counts is what was issued, before anything was learned from its batch. The frozen model answers the same
  examples. *Less frozen* and *less diversity* are paired differences in the last round with their 95% interval, the
  wider one of Student's t over the seeds and a paired bootstrap over examples; of one seed the bootstrap alone. Where
  the other arm has fewer seeds, it says of how many.
- *Clean after* is the accuracy on clean test examples after the last round, *kept* the share of a batch that was
  learned from as it came (0 where one learns once labels come), *alarms* how often the watch raised one, *resets* how
  often an adapter put itself back to its start.
- All settings are the defaults of the adapters, except that CoTTA's teacher averages {images} changed images instead of
  32. Labels come {late} batch late where an adapter learns from labels.
- The homeostatic rate of the claim ({rate}) and the learning rate of test-time self-improvement ({own}) are ours, and
  nothing was tried out for them; it asks for lessons by `~{{prompt}}`, as its base was trained.
- ± is half of the 95% interval, Student's t over the seeds. The most used adapters and their controls have all seeds,
  as has what is compared in a claim; others have one.
"""
_COSTS_HEAD = """\
## What it costs

*Time* is the seconds of the processor for a batch, to predict it and to learn from it, as a multiple of the seconds in
which the frozen model predicts one on the same machine at the same time; *held* is the megabytes of tensors that live
between two batches beyond those of the frozen run: moments, teachers, copies, source examples. Both are medians over
the seeds that were measured; of some, the time beside the frozen model was not taken. What a step needs while it is
computed is not counted."""
_PEERS = """\
## Beside the public implementations

The classes of [test-time-adaptation](https://github.com/mariodoebler/test-time-adaptation) (revision 8b2ed63) were run
beside ours on the same small vision transformer and the same batches, with the same augmentations. Their
package is no dependency, so the tests hold the formulas, written a second time (`tests/adaptation/test_formulas.py`).

| adapter | batches | largest difference of a probability | made alike first |
|---|--:|--:|---|
| `tent` | 18 | 2e-7 | |
| `eata` | 18 | 2e-7 | |
| `sar` | 18 | 2e-7 | which norms are trained |
| `lame` | 18 | 0 | |
| `roid` | 18 | 3e-7 | `prior=false`; by the prior theirs multiplies logits, ours probabilities |
| `cotta` | 6 | 2e-7 | all weights are trained, none is put back: theirs passes over class token and positions |
| `rmt` | 18 | 5e-7 | all weights are trained, without a warm-up; both have the same head to begin with |

All other adapters have no public implementation that was run here. They are held to their formulas alone.
"""
_CLAIMS_HEAD = """\
## Claims

A claim holds if its rule is true. The rules were written before the measurements; a claim that fails stays failed. A
*minus* B means the accuracy of A minus the accuracy of B, and in a trial what its table shows of A minus that of B. A
verdict is given when all {seeds} seeds are there.
"""
_NOT_HERE = """\
What cannot be asked at this size: the distances and thresholds for a thousand classes, what 32 augmentations gain on
large images, figures of medical data, of agents, and of embodied or panoramic tasks."""
