"""The page of a training: what was gained and what was forgotten, the curves, and the examples that flipped.

A comparison of base and result with the curves above it. Uses training and measure; `genepool train` and
`genepool report` write it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from genepool.errors import listed
from genepool.report import markdown
from genepool.report.comparison_page import Compared, comparison_markdown, comparison_values
from genepool.report.flips import flips_of
from genepool.report.templates import NARROW, WIDE, render_page
from genepool.report.text import divergence, percent
from genepool.report.training_figure import training_figure
from genepool.staging import write_text
from genepool.training.folder import JOURNAL_FILE
from genepool.training.gains import AFTER, BEFORE, Gains
from genepool.training.journal import Journal
from genepool.training.made_examples import shown

#: What an objective may say of the examples of a step: its heading, and what it is.
_NUMBERS = {
    "reward": ("Reward", "the mean reward of the examples of a step"),
    "margin": ("Margin", "by how much the reward of the chosen answers is above that of the rejected ones"),
    "kl": ("KL divergence", "the divergence from the model as it began, in nats per token"),
    "length": ("Length", "tokens of an answer"),
    "demonstration": ("Right answers", "their share of all rows: right answers that were learned instead of samples"),
    "kept": (
        "Share kept",
        "the share of the examples that were learned from; the others were rewarded alike, or not at all",
    ),
}


def write_training(run: Path, told: dict[str, Any], gains: Gains, path: Path, *, overwrite: bool = True) -> Path:
    """Writes the page of a finished training, whole or not at all; as Markdown when the name ends in .md.

    Args:
        run: the folder of the training.
        told: what its `train.json` says.
        gains: base and result on the test split of every task.
        path: the page.
        overwrite: replace what is there.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    compared = [Compared(gains.comparison, (), flips_of(gains.table, BEFORE, AFTER))]
    facts = _facts(told)
    if path.suffix == ".md":
        text = f"# {headline(told)}\n\n{_writing_markdown(told)}{comparison_markdown(compared, facts)}"
    else:
        with Journal(run / JOURNAL_FILE) as journal:
            steps = [(float(row.step), row.loss) for row in journal.steps()]
            validations, means = journal.validations(), journal.means()
            shares = journal.shares() if told.get("sampler") else {}
            made = list(map(shown, journal.rounds()))
        line = [(float(one.step), one.loss) for one in validations]
        curves = [training_figure(steps, line, told["best_step"], label="loss", **size) for size in (WIDE, NARROW)]
        values = comparison_values(compared, facts)
        title = headline(told)
        numbers = [
            (
                heading,
                meaning,
                [training_figure(points, [], told["best_step"], label=name, **size) for size in (WIDE, NARROW)],
            )
            for name, (heading, meaning) in _NUMBERS.items()
            if (points := [(float(step), said[name]) for step, said in means.items() if name in said])
        ]
        # Of one task there is nothing to see.
        for task, drawn in shares.items() if len(shares) > 1 else ():
            points = [(float(step), share) for step, share in drawn.items()]
            figures = [training_figure(points, [], told["best_step"], label="share", **size) for size in (WIDE, NARROW)]
            numbers.append((f"Drawn of {task}", "its share of the examples of a step, as the sampler chose", figures))
        for name, curve in (told.get("curriculum") or {}).items():
            points = [(float(step), float(mean)) for step, mean in curve]
            figures = [training_figure(points, [], told["best_step"], label=name, **size) for size in (WIDE, NARROW)]
            numbers.append((f"Drawn: {name}", "its mean over the examples of a step, as the sampler chose", figures))
        text = render_page(
            "train.html.j2",
            title,
            **values,
            curves=curves,
            validations=validations,
            numbers=numbers,
            lead=_lead(told),
            writing=told.get("writing") or [],
            made=made,
        )
    write_text(path, text, overwrite=overwrite)
    return path


def headline(told: dict[str, Any]) -> str:
    """What was gained and what was forgotten, in one sentence."""
    gained = [f"{row['task']} from {percent(row['before'])}% to {percent(row['after'])}%" for row in told["target"]]
    return f"{listed(gained)}; {_kept(told['others'])}"


def _writing_markdown(told: dict[str, Any]) -> str:
    """How long answers are and how far the model moved, as a table."""
    if not (writing := told.get("writing")):
        return ""
    heads = ("task", "answers", "tokens before", "tokens after", "KL to the base, nats per token")
    rows = [
        (row["task"], f"{row['n']:,}", f"{row['before']:.1f}", f"{row['after']:.1f}", divergence(row["kl"]))
        for row in writing
    ]
    return "\n".join(markdown.table(heads, rows)) + "\n"


def _kept(others: list[dict[str, Any]]) -> str:
    """What became of the tasks that were not taught, as a clause."""
    worse = [row["task"] for row in others if row["verdict"] == "worse"]
    if not others:
        return "no other task was asked"
    if not worse:
        return f"of {len(others)} other tasks none got clearly worse"
    rest = len(others) - len(worse)
    return f"{listed(worse)} got worse" + (f", {rest} other{'s' if rest > 1 else ''} did not" if rest else "")


def _lead(told: dict[str, Any]) -> str:
    """What the dots and the line of the first figure are."""
    if "equal_pairs" in told:
        return (
            "Dots are the mean loss over the pairs of every step, before it was taken; the line is that of the "
            "validation pairs, of which those are right whose chosen answer has the higher reward."
        )
    if "samples" in told:
        return (
            "Dots are the mean loss over the tokens of all samples of every step, before it was taken; the line is one "
            "minus the score on the validation examples."
        )
    return (
        "Dots are the loss of every step, in nats per answer token, before it was taken; the line is the loss on the "
        "validation examples."
    )


def _facts(told: dict[str, Any]) -> dict[str, str]:
    early = " (stopped early)" if told["stopped_early"] else ""
    options = told.get("options", {})
    return {
        "base": told["base"]["path"],
        **({"before": f"{head['before']}: the base has no head"} if (head := told.get("head")) else {}),
        "result": told["result"],
        "fingerprint": told["fingerprint"],
        "objective": told["objective"],
        **({"options": ", ".join(f"{key}: {value}" for key, value in options.items())} if options else {}),
        **({"samples": samples} if (samples := _samples(told.get("samples"))) else {}),
        **({"running mean": mean} if (mean := _named(told.get("average"))) else {}),
        **({"sampler": str(told["sampler"])} if told.get("sampler") else {}),
        **({"made": made} if (made := _made(told.get("made"))) else {}),
        **({"examples by task": drawn} if (drawn := _named(told.get("drawn"))) else {}),
        "steps": f"{told['steps']:,}{early}; the state of step {told['best_step']:,} was written",
        "learning rate": f"{told['learning_rate']:.3g}",
        "examples": f"{told['examples']['train']:,} to train on, {told['examples']['valid']:,} to validate on",
        **({"cost": cost} if (cost := _cost(told)) else {}),
        "seed": str(told["seed"]),
        "genepool": version("genepool"),
    }


def _made(told: dict[str, Any] | None) -> str:
    """How many examples were made, and in how many rounds."""
    if told is None:
        return ""
    rounds = f"{told['rounds']:,} round{'s' if told['rounds'] != 1 else ''}"
    return f"{told['examples']:,} examples in {rounds}, of {told['wanted']:,} that were wanted"


def _named(values: dict[str, Any] | None) -> str:
    """Numbers by their names."""
    return ", ".join(f"{name}: {value}" for name, value in (values or {}).items())


def _cost(told: dict[str, Any]) -> str:
    """What the training computed: what a control must have as much of."""
    if (cost := told.get("cost")) is None:
        return ""
    rounds = cost["examples"] / max(1, told["examples"]["train"])
    what = "samples" if "samples" in told else f"examples ({rounds:.1f} rounds of all)"
    wrote = f", {cost['tokens']:,} tokens written" if cost["tokens"] else ""
    return f"{cost['steps']:,} steps, {cost['examples']:,} {what}{wrote}"


def _samples(counts: dict[str, int] | None) -> str:
    """How many samples were drawn and what became of them."""
    if counts is None:
        return ""
    failed = f"; the reward failed for {counts['failed']:,}" if counts["failed"] else ""
    alike = f"; {counts['equal_groups']:,} of {counts['groups']:,} prompts rewarded alike" if "groups" in counts else ""
    taught = f"; {counts['demonstrations']:,} right answers instead" if "demonstrations" in counts else ""
    return f"{counts['drawn']:,} drawn, {counts['learned_from']:,} learned from{failed}{alike}{taught}"
