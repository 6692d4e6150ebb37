"""The page of an adaptation: accuracy along the stream against the frozen model, the watch, the clean set, domains.

A comparison of frozen and adapted over the last round with the curves above it. Uses adaptation and measure;
`genepool adapt` and `genepool report` write it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from genepool.adaptation.augmentation import told_cost
from genepool.adaptation.results import block_of, comparison_of, pooled
from genepool.adaptation.runner import RECORD_FILE, REPORT_FILE, AdaptationResult
from genepool.adaptation.stream_record import IssuedRow, SignsRow, StreamRecord
from genepool.report import markdown
from genepool.report.adaptation_figure import StreamLine, stream_figure
from genepool.report.comparison_page import STATES, Compared, comparison_markdown, comparison_values
from genepool.report.templates import NARROW, WIDE, render_page
from genepool.report.text import percent
from genepool.staging import write_text

#: Points of a curve, at most: neighbouring batches are pooled until there are no more.
POINTS = 60
# What the watch calls the spread of predictions, and of forecasts.
SPREAD = ("entropy of the mean prediction", "spread of the forecasts")
# Two-sided 95% quantile of the normal distribution, for the band of a window.
_Z = 1.959963984540054


def write_adaptation(result: AdaptationResult, path: Path | None = None, *, overwrite: bool = True) -> Path:
    """Writes the page of a finished run, whole or not at all; as Markdown when the name ends in .md.

    Args:
        result: the run.
        path: the page; `report.html` in its folder when None.
        overwrite: replace what is there.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    path = result.out / REPORT_FILE if path is None else path
    told, facts = result.told, _facts(result.told)
    with StreamRecord(result.out / RECORD_FILE) as record:
        rows, signs = pooled(record.issued(), block_of(record)), record.signs()
        comparison = comparison_of(record, told["seed"])
    compared = [] if comparison is None else [Compared(comparison)]
    if path.suffix == ".md":
        lines = comparison_markdown(compared, facts) if compared else ""
        write_text(path, f"# {headline(told)}\n\n{_rounds_markdown(told)}\n{lines}", overwrite=overwrite)
        return path
    values = comparison_values(compared, facts) if compared else _without_labels(facts)
    ends = [one.number + 1 for one, after in itertools.pairwise(signs) if after.round > one.round]
    marks = [(one["batch"], one["alarm"] or f"reset {one['reset']}") for one in told["events"]]
    curves = _curves(rows)
    seen = _signs(signs, told)
    text = render_page(
        "adapt.html.j2",
        headline(told),
        **values,
        told=told,
        error=told.get("error"),
        course=told.get("course"),
        accuracy=[stream_figure(curves, ends, marks, **size) for size in (WIDE, NARROW)] if curves else None,
        accuracy_lines=[line.name for line in curves],
        signs=[stream_figure(seen, ends, marks, **size) for size in (WIDE, NARROW)],
        signs_lines=[line.name for line in seen],
    )
    write_text(path, text, overwrite=overwrite)
    return path


def headline(told: dict[str, Any]) -> str:
    """The verdict in one sentence."""
    name, stream = told["adapter"], told["stream"]["name"]
    if told["verdict"] is None:
        return f"{name} on {stream}: there are no labels, so nothing is known"
    rounds = "round 1" if told["rounds"] == 1 else f"round {told['history'][-1]['round']}"
    scores = f"{percent(told['adapted'])}% against {percent(told['frozen'])}% of the frozen model in {rounds}"
    return f"{name} on {stream}: {told['verdict']}, {scores}"


def _curves(rows: Sequence[IssuedRow]) -> list[StreamLine]:
    """Accuracy of the adapted and of the frozen model, by windows of batches; none where there are no labels."""
    labelled = [row for row in rows if row.score is not None and row.frozen_score is not None]
    if not labelled:
        return []
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    band: list[tuple[float, float, float]] = []
    for part in _windows(labelled):
        adapted = np.array([row.score for row in part], dtype=np.float64)
        frozen = np.array([row.frozen_score for row in part], dtype=np.float64)
        at = (part[0].batch + part[-1].batch + 1) / 2
        half = _Z * float((adapted - frozen).std()) / math.sqrt(len(part))
        ours.append((at, float(adapted.mean())))
        theirs.append((at, float(frozen.mean())))
        band.append((at, max(0.0, ours[-1][1] - half), min(1.0, ours[-1][1] + half)))
    return [StreamLine("adapted", tuple(ours), tuple(band)), StreamLine("frozen", tuple(theirs))]


def _windows(rows: Sequence[IssuedRow]) -> list[Sequence[IssuedRow]]:
    """Examples of neighbouring batches, in as many parts as a curve has points; a batch is never cut."""
    batches = sorted({row.batch for row in rows})
    size = -(-len(batches) // POINTS)
    window = {batch: place // size for place, batch in enumerate(batches)}
    parts: list[list[IssuedRow]] = [[] for _ in range(-(-len(batches) // size))]
    for row in rows:
        parts[window[row.batch]].append(row)
    return [part for part in parts if part]


def _signs(signs: Sequence[SignsRow], told: dict[str, Any]) -> list[StreamLine]:
    """What the watch saw, by windows of batches; entropy and spread as a share of the largest one that was seen."""
    most = max((one.spread for one in signs), default=0.0) or 1.0
    named = {
        **({} if told.get("error") else {"commonest prediction": [one.commonest for one in signs]}),
        SPREAD[bool(told.get("error"))]: [one.spread / most for one in signs],
        **({"share kept": [one.kept for one in signs]} if told["trains"] != "nothing" else {}),
    }
    size = -(-len(signs) // POINTS) or 1
    return [
        StreamLine(
            name,
            tuple(
                (at + len(values[at : at + size]) / 2, float(np.mean(values[at : at + size])))
                for at in range(0, len(values), size)
            ),
        )
        for name, values in named.items()
    ]


def _rounds_markdown(told: dict[str, Any]) -> str:
    heads = ("round", "n", "frozen", "adapted", "difference", "95%", "verdict")
    rows = [
        (
            str(one["round"]), f"{one['n']:,}", percent(one["frozen"]), percent(one["adapted"]),
            f"{100 * one['difference']['mean']:+.1f}",
            f"{100 * one['difference']['lo']:+.1f} to {100 * one['difference']['hi']:+.1f}", one["verdict"],
        )
        for one in told["history"]
        if one["difference"] is not None
    ]  # fmt: skip
    return "\n".join(markdown.table(heads, rows)) + "\n"


def _without_labels(facts: dict[str, str]) -> dict[str, Any]:
    """What the template of a comparison names, of nothing that was compared."""
    return {
        "panels": [],
        "old": "",
        "notices": ["The stream has no labels, so nothing is scored."],
        "tasks": [],
        "profiles": [],
        "charts": ["", ""],
        "states": STATES,
        "facts": facts,
    }


def _facts(told: dict[str, Any]) -> dict[str, str]:
    given = ", ".join(f"{key}: {value}" for key, value in told["options"].items())
    stopped = " (stopped by the watch)" if told.get("stopped") else ""
    return {
        "model": told["model"]["path"],
        "stream": f"{told['stream']['path']} ({told['stream']['digest'][:12]})",
        "adapter": told["adapter"],
        **({"options": given} if given else {}),
        **({"augmentations": told_cost(told["augmentation_cost"])} if told["augments"] else {}),
        "order": told["order"],
        **(_series_facts(told["error"]) if told.get("error") else {}),
        "batches": f"{told['batches']:,} in {told['rounds']:,} rounds{stopped}",
        "resets": f"{told['resets']:,}",
        "skill": told["skill"] or "none: " + (told.get("no_skill") or "nothing changed, or not to numbers"),
        "seed": str(told["seed"]),
        "genepool": version("genepool"),
    }


def _series_facts(error: dict[str, Any]) -> dict[str, str]:
    """What is told of a series alone."""

    def told(value: float | None) -> str:
        return "none: a forecast is not a number, or was not made again" if value is None else f"{value:.4g}"

    return {
        "score": "1 / (1 + mean squared error)",
        "mean squared error": f"{told(error['adapted'])} adapted, {told(error['frozen'])} frozen",
        "forecast again after the batch": told(error["late"]),
        "counted as one example": f"{error['block']} neighbouring windows, which overlap in what they forecast",
    }
