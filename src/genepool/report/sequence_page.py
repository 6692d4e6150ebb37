"""The page of tasks learned in order: the matrix as a picture, what was kept of every task, and what it cost to keep.

A comparison of base and result with the matrix above it. Uses training and measure; `genepool train` and
`genepool report` write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genepool.report import markdown
from genepool.report.comparison_page import Compared, comparison_markdown, comparison_values
from genepool.report.flips import flips_of
from genepool.report.matrix_figure import matrix_figure
from genepool.report.templates import NARROW, WIDE, render_page
from genepool.report.text import percent
from genepool.staging import write_text
from genepool.training.continual.folder import is_learned_in_order
from genepool.training.gains import AFTER, BEFORE, Gains

#: The measures of the matrix: what they are called, and what they say.
MEASURES = {
    "acc": ("Average", "of all learned tasks in the end (ACC)"),
    "bwt": ("Backward transfer", "how much better a task is in the end than right after it was learned (BWT)"),
    "fwt": ("Forward transfer", "how much better a task is right before it is learned than in the base (FWT)"),
    "forgetting": ("Forgetting", "how much worse a task is in the end than at its best since it was learned"),
}


def write_sequence(run: Path, told: dict[str, Any], gains: Gains, path: Path, *, overwrite: bool = True) -> Path:
    """Writes the page of tasks learned in order, whole or not at all; as Markdown when the name ends in .md.

    Args:
        run: the folder of the run.
        told: what its `train.json` says.
        gains: base and result on the test split of every task.
        path: the page.
        overwrite: replace what is there.

    Raises:
        InputError: `train.json` is damaged, something is there and `overwrite` is false, or it cannot be written.
    """
    is_learned_in_order(told, run)
    compared = [Compared(gains.comparison, (), flips_of(gains.table, BEFORE, AFTER))]
    facts, stages = _facts(told), _accumulated(told["stages"])
    rows, columns, scores, own = matrix_of(told)
    if path.suffix == ".md":
        table = markdown.table(
            ("after", *columns),
            [(name, *(f"{percent(one)}%" for one in line)) for name, line in zip(rows, scores, strict=True)],
        )
        measures = [f"- {word}, {meaning}: {_points(key, told[key])}" for key, (word, meaning) in MEASURES.items()]
        parts = [f"# {_title(told)}", "## Matrix", "\n".join(table), "\n".join(measures)]
        text = "\n\n".join([*parts, comparison_markdown(compared, facts)]) + "\n"
    else:
        text = render_page(
            "sequence.html.j2",
            _title(told),
            **comparison_values(compared, facts),
            pictures=[matrix_figure(rows, columns, scores, own, size["width"]) for size in (WIDE, NARROW)],
            measures=[(word, meaning, _points(key, told[key])) for key, (word, meaning) in MEASURES.items()],
            kept=told["kept"],
            stages=stages,
            costs=all("total_compute" in stage for stage in stages),
            shared=told["shared"],
        )
    write_text(path, text, overwrite=overwrite)
    return path


def matrix_of(told: dict[str, Any]) -> tuple[list[str], list[str], list[list[float]], list[int | None]]:
    """Rows, columns and scores of the picture, and the column of the task that each row had just learned.

    Args:
        told: what `train.json` says.
    """
    names = told["sequence"]
    columns = [*names, *(one["task"] for one in told["generic"])]
    scores = [[*told["untrained"], *(one["before"] for one in told["generic"])]]
    scores += [[*line, *(one["after"][at] for one in told["generic"])] for at, line in enumerate(told["matrix"])]
    rows = ["nothing", *(", ".join(stage["tasks"]) for stage in told["stages"])]
    alone = [stage["tasks"][0] if len(stage["tasks"]) == 1 else None for stage in told["stages"]]
    return rows, columns, scores, [None, *(None if one is None else names.index(one) for one in alone)]


def _accumulated(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages, each with the mean error and the operations of all so far; of a record without them, without."""
    if any(stage.get(key) is None for stage in stages for key in ("error", "compute")):
        return list(stages)
    errors = [stage["error"] for stage in stages]
    costs = [stage["compute"] for stage in stages]
    return [
        {**stage, "mean_error": sum(errors[:at]) / at, "total_compute": sum(costs[:at])}
        for at, stage in enumerate(stages, 1)
    ]


def _title(told: dict[str, Any]) -> str:
    names = told["sequence"]
    said = f"{len(names)} tasks learned by {told['learner']}: {percent(told['acc'])}% on average in the end"
    return said if told["bwt"] is None else f"{said}, backward transfer {_points('bwt', told['bwt'])}"


def _points(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{percent(value)}%" if key == "acc" else f"{100 * value:+.1f} points"


def _facts(told: dict[str, Any]) -> dict[str, str]:
    settings = ", ".join(f"{key}: {value}" for key, value in told["options"].items())
    return {
        "base": told["base"]["path"],
        "result": told["result"],
        "fingerprint": told["fingerprint"],
        "learner": told["learner"],
        **({"options": settings} if settings else {}),
        "order": ", ".join(told["sequence"]),
        "steps": f"{told['steps']:,}",
        "learning rate": f"{told['learning_rate']:.3g}",
        "examples": f"{told['examples']['train']:,} to train on, {told['cost']['examples']:,} in all steps",
        "memory in the end": f"{told['memory_bytes']:,} bytes",
        "seed": str(told["seed"]),
        "genepool": version("genepool"),
    }
