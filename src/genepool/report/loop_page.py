"""The page of a loop: what was gained and what was forgotten, and what every stage of every round did.

A comparison of base and result with the stages above it. Uses training and measure; `genepool train` and
`genepool report` write it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from genepool.checked import is_number
from genepool.report.comparison_page import Compared, comparison_markdown, comparison_values
from genepool.report.flips import flips_of
from genepool.report.templates import render_page
from genepool.report.text import percent
from genepool.report.training_page import headline
from genepool.staging import write_text
from genepool.training.gains import AFTER, BEFORE, Gains

#: What a stage costs: optimiser steps, generated tokens, and known answers that it looked at.
COUNTS = ("steps", "tokens", "labels")


def write_loop(run: Path, told: dict[str, Any], gains: Gains, path: Path, *, overwrite: bool = True) -> Path:  # noqa: ARG001
    """Writes the page of a finished loop, whole or not at all; as Markdown when the name ends in .md.

    Args:
        run: the folder of the loop.
        told: what its `loop.json` says.
        gains: base and result on the test split of every task.
        path: the page.
        overwrite: replace what is there.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    compared = [Compared(gains.comparison, (), flips_of(gains.table, BEFORE, AFTER))]
    facts = {
        "base": told["base"]["path"],
        "result": told["result"],
        "fingerprint": told["fingerprint"],
        "rounds": f"{told['rounds']:,}",
        "steps": f"{told['steps']:,}",
        "tokens generated": f"{told['tokens_generated']:,}",
        "known answers used": f"{told['labels']:,}",
        "seed": str(told.get("seed", "")),
        "genepool": version("genepool"),
    }
    stages, (measured, rounds) = [_row(one) for one in told["stages"]], rounds_of(told["stages"])
    if path.suffix == ".md":
        rows = [f"| {one['round']} | {one['stage']} | {one['did']} | {one['tokens']:,} |" for one in stages]
        table = "\n".join(["| round | stage | did | tokens |", "|--:|---|---|--:|", *rows])
        heads = ["round", *measured, "steps", "tokens", "known answers"]
        lines = ["| " + " | ".join(heads) + " |", "|" + "--:|" * len(heads)]
        for one in rounds:
            scores = ["" if score is None else f"{percent(score)}%" for score in one["scores"]]
            counts = [f"{one[key]:,}" for key in COUNTS]
            lines.append("| " + " | ".join([str(one["round"]), *scores, *counts]) + " |")
        parts = [f"# {headline(told)}", comparison_markdown(compared, facts), "## Rounds", "\n".join(lines)]
        text = "\n\n".join([*parts, "## Stages", table]) + "\n"
    else:
        text = render_page(
            "loop.html.j2",
            headline(told),
            **comparison_values(compared, facts),
            stages=stages,
            measured=measured,
            rounds=rounds,
        )
    write_text(path, text, overwrite=overwrite)
    return path


def rounds_of(stages: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """The tasks that `measure` asked, and a row for each round: its scores, None where it was not asked, and its cost.

    Args:
        stages: what `loop.json` says of each.
    """
    measured: dict[str, None] = {}
    rounds: dict[int, dict[str, Any]] = {}
    for stage in stages:
        counts = _row(stage)
        row = rounds.setdefault(counts["round"], {"scores": {}, **dict.fromkeys(COUNTS, 0)})
        for key in COUNTS:
            row[key] += counts[key]
        said = stage.get("told")
        if stage.get("stage") == "measure" and isinstance(said, dict):
            row["scores"] = {str(name): float(score) for name, score in said.items() if is_number(score, 0, 1)}
            measured |= dict.fromkeys(row["scores"])
    names = list(measured)
    return names, [
        {**row, "round": number, "scores": [row["scores"].get(name) for name in names]}
        for number, row in sorted(rounds.items())
    ]


def _row(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage as the table says it."""
    told = stage.get("told")
    said = told.items() if isinstance(told, dict) else ()
    did = ", ".join(f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in said)
    numbers = {key: value if isinstance(value := stage.get(key), int) else 0 for key in ("round", *COUNTS)}
    return {**numbers, "stage": str(stage.get("stage", "")), "did": did.replace("|", "\\|")}
