"""Self-contained HTML pages: template, style sheet and script put together, everything escaped; the page of a study.

The page loads nothing: a content policy in it forbids every request and every script but its own. Uses jinja2 and the
report's figures; the command line and the demo call `render_report`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from genepool.report import bars, colour, gathered, recipe_figure, scatter_figure, search_figure, text, text_diff
from genepool.report.data import KIND_OF_ONE, KINDS, Ability, Comparison, Estimate, Kind, ModelRow, ReportData
from genepool.report.parallel_figure import Profile, parallel_figure
from genepool.report.study_text import report_markdown
from genepool.staging import write_text

WIDE = {"width": 960.0, "height": 400.0}
NARROW = {"width": 380.0, "height": 300.0}
#: Models drawn in parallel; a legend of more is no legend.
PROFILES = 40


@dataclass(frozen=True)
class Column:
    """A column of the matrix: one ability, or the mean of a group when `name` is empty."""

    group: str
    name: str
    n: int

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean over its group."""
        return not self.name

    def of(self, model: ModelRow) -> Estimate:
        """The model's number in this column."""
        return (model.means.get(self.group) if self.is_mean else model.scores.get(self.name)) or Estimate(None)


def render_report(data: ReportData) -> str:
    """The page, complete: one HTML text without any reference to the outside.

    Args:
        data: what to show; sections without data are left out.

    Returns:
        HTML, safe to write as UTF-8 whatever prompts and outputs hold.
    """
    columns = matrix_columns(data.abilities, data.models)
    profiles = model_profiles(data)
    curves = [search_figure.curve(run) for run in data.searches if run.evaluations]
    return render_page(
        "report.html.j2",
        data.title,
        data=data,
        columns=columns,
        column_groups=_runs([column.group for column in columns]),
        row_groups=row_groups(data.models),
        leaders=leaders(columns, data.models),
        standings=[(s, bars.common_range([s.score, *(r.score for r in s.rivals)])) for s in data.standings],
        curves=[(c, search_figure.milestones(c)) for c in curves],
        charts=[search_figure.search_figure(curves, data.references, **size) for size in (WIDE, NARROW)],
        series=search_figure.series(curves),
        scatters=[(scatter, scatter_figure.told_points(scatter)) for scatter in data.scatters],
        scatter_data=scatter_figure.scatter_data(data.scatters, [run.name for run in data.searches])
        if data.scatters
        else "",
        gatherings=[(one, gathered.told_members(one), gathered.atlas_data(one)) for one in data.gatherings],
        profiles=profiles,
        profile_charts=[
            parallel_figure([ability.name for ability in data.abilities], profiles, width=size["width"])
            for size in (WIDE, NARROW)
        ],
        recipes=[(recipe, recipe_figure.panels(recipe)) for recipe in data.recipes],
        comparisons=[_comparison(comparison) for comparison in data.comparisons],
        widest=bars.reach(change.delta for comparison in data.comparisons for change in comparison.changes),
        kinds=KINDS,
        kind_of_one=KIND_OF_ONE,
    )


def write_report(data: ReportData, path: str | Path, *, overwrite: bool = True) -> Path:
    """Writes the page, whole or not at all, and returns where it is; as Markdown when the name ends in .md.

    Raises:
        InputError: something is there and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    write_text(path, (report_markdown if path.suffix == ".md" else render_report)(data), overwrite=overwrite)
    return path


def matrix_columns(abilities: Sequence[Ability], models: Sequence[ModelRow]) -> list[Column]:
    """The abilities group by group, each group with more than one followed by its mean, where one is known."""
    columns: list[Column] = []
    for group in dict.fromkeys(ability.group for ability in abilities):
        members = [ability for ability in abilities if ability.group == group]
        columns += [Column(group, ability.name, ability.n) for ability in members]
        if len(members) > 1 and any(group in model.means for model in models):
            columns.append(Column(group, "", sum(ability.n for ability in members)))
    return columns


def row_groups(models: Sequence[ModelRow]) -> list[tuple[Kind, list[ModelRow]]]:
    """The models by kind, in the page's order, empty kinds left out."""
    grouped = [(kind, [model for model in models if model.kind == kind]) for kind in KINDS]
    return [(kind, rows) for kind, rows in grouped if rows]


def leaders(columns: Sequence[Column], models: Sequence[ModelRow]) -> dict[tuple[str, str], float]:
    """The highest value of every column, by (group, name); columns in which all are equal are left out."""
    best = {}
    for column in columns:
        values = [value for model in models if (value := column.of(model).value) is not None]
        if len(set(values)) > 1:
            best[column.group, column.name] = max(values)
    return best


def model_profiles(data: ReportData) -> list[Profile]:
    """The models' scores over the abilities, the subject and what it is held against first, which are shown at once.

    Of very many models the first PROFILES are drawn; the matrix has all of them.
    """
    if len(data.abilities) < 2:
        return []
    rivals = [rival.name for standing in data.standings for rival in standing.rivals]
    first = list(dict.fromkeys([data.subject, *rivals, *(model.name for model in data.models if model.kind == "base")]))
    ordered = sorted(data.models, key=lambda m: first.index(m.name) if m.name in first else len(first))
    scores = [tuple(m.scores.get(ability.name) or Estimate(None) for ability in data.abilities) for m in ordered]
    return [
        Profile(model.name, own, model.name in first or (not data.subject and place < len(colour.CURVES)))
        for place, (model, own) in enumerate(zip(ordered[:PROFILES], scores, strict=False))
        if any(score.value is not None for score in own)
    ]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    abilities = list(dict.fromkeys(flip.ability for flip in comparison.flips))
    return {
        "it": comparison,
        "limit": bars.reach(change.delta for change in comparison.changes),
        "gained": sum(change.gained for change in comparison.changes),
        "lost": sum(change.lost for change in comparison.changes),
        "abilities": abilities,
    }


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    """Neighbours that are equal, counted: the spans of a header line."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs


def render_page(template: str, title: str, **values: Any) -> str:
    """A page: a template of `assets/` filled in, with the style sheet, script and policy that all pages share.

    Args:
        template: its file name; it extends `page.html.j2`.
        title: of the page.
        values: what the template names.
    """
    script = _asset("report.js").replace("/* pictures */\n", _asset("scatter.js") + "\n" + _asset("atlas.js"))
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            style=Markup(_style()),
            script=Markup(script),
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_digest(script)}'",
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        percent=text.percent,
        points=text.points,
        interval=text.interval,
        points_interval=text.points_interval,
        verdict=text.verdict,
        duration=text.duration,
        count=text.count,
        compact=text.compact,
        shortened=text.shortened,
        breakable=_breakable,
        marked=text_diff.marked,
        step=colour.step,
        curve_class=colour.curve_class,
        shade=recipe_figure.shade,
        diverging_bar=bars.diverging_bar,
        interval_mark=bars.interval_mark,
        tilt=bars.tilt,
        gene_bar=bars.gene_bar,
        exact=lambda value: "" if value is None else f"{value:.6g}",
    )
    environment.globals.update(STEPS=colour.STEPS, CURVES=len(colour.CURVES))
    return environment


def _finalize(value: Any) -> Any:
    # Every plain text of the page passes here before it is escaped; markup made by the figures has been cleaned.
    return text.clean(value) if type(value) is str else value


def _breakable(name: str) -> Markup:
    """A name that may wrap behind an underscore, a slash or a plus rather than anywhere."""
    return Markup(re.sub(r"([_/+])(?=\w)", r"\1<wbr>", str(escape(text.clean(name)))))


def _style() -> str:
    css = _asset("report.css").replace("/* colours */", f"{colour.scale_css()}\n{colour.curves_css()}")
    return re.sub(r"/\*.*?\*/\s*", "", css, flags=re.DOTALL)


def _asset(name: str) -> str:
    return (files("genepool.report") / "assets" / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
