"""The page of a loop: what was gained and what was forgotten, and what every stage of every round did.

A comparison of base and result with the stages above it. Uses training and measure; `genepool train` and
`genepool report` write it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from genepool.report.comparison_page import Compared, comparison_markdown, comparison_values
from genepool.report.flips import flips_of
from genepool.report.templates import render_page
from genepool.report.training_page import headline
from genepool.staging import write_text
from genepool.training.gains import AFTER, BEFORE, Gains


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
    stages = [_row(one) for one in told["stages"]]
    if path.suffix == ".md":
        rows = [f"| {one['round']} | {one['stage']} | {one['did']} | {one['tokens']:,} |" for one in stages]
        table = "\n".join(["| round | stage | did | tokens |", "|--:|---|---|--:|", *rows])
        text = f"# {headline(told)}\n\n{comparison_markdown(compared, facts)}\n## Stages\n\n{table}\n"
    else:
        text = render_page("loop.html.j2", headline(told), **comparison_values(compared, facts), stages=stages)
    write_text(path, text, overwrite=overwrite)
    return path


def _row(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage as the table says it."""
    told = stage.get("told")
    said = told.items() if isinstance(told, dict) else ()
    did = ", ".join(f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in said)
    numbers = {key: value if isinstance(value := stage.get(key), int) else 0 for key in ("round", "tokens", "steps")}
    return {**numbers, "stage": str(stage.get("stage", "")), "did": did.replace("|", "\\|")}
