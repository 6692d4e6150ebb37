"""The page of a study as Markdown, for a README or a comment, and as plain values for JSON: the same numbers.

Uses the report's data, Markdown and text rooms; the command line writes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from genepool.report import markdown
from genepool.report.data import KIND_OF_ONE, KINDS, Estimate, ReportData, Scatter, ScatterPoint
from genepool.report.gathered import told_members
from genepool.report.text import clean, count, duration, interval, percent, points, points_interval, verdict
from genepool.report.trade_offs import fronts


def report_markdown(data: ReportData) -> str:
    """The numbers of the page; sections without data are left out."""
    lines = [f"# {markdown.plain(clean(data.title))}", ""]
    if data.summary:
        lines += [markdown.plain(clean(data.summary)), ""]
    for notice in data.notices:
        lines += [f"> {markdown.plain(clean(notice))}", ""]
    for section in (_standings, _scores, _changes, _trade_offs, _gatherings, _searches, _recipes, _costs, _end):
        lines += section(data)
    return clean("\n".join(lines).rstrip() + "\n")


def report_values(data: ReportData) -> dict[str, Any]:
    """The numbers of the page as plain values; shares and differences between 0 and 1, times in seconds.

    Of trade-offs it names the front of every two objectives; the flipped examples are left to the page.
    """
    return {
        "finished": data.finished,
        "title": data.title,
        "summary": data.summary,
        "notices": list(data.notices),
        "subject": data.subject,
        "models": [model.name for model in data.models],
        "standings": [
            {
                "group": standing.group,
                **_ends("mean", standing.score),
                "against": [
                    {"role": rival.role, "model": rival.name, **_ends("difference", rival.ahead)}
                    for rival in standing.rivals
                ],
            }
            for standing in data.standings
        ],
        "scores": [
            {"model": model.name, "kind": model.kind, "ability": ability, "n": score.n, **_ends("mean", score)}
            for model in data.models
            for ability, score in model.scores.items()
            if score.value is not None
        ],
        "changes": [
            {
                "against": comparison.rival,
                "ability": change.ability,
                "n": change.delta.n,
                **_ends("difference", change.delta),
                "gained": change.gained,
                "lost": change.lost,
            }
            for comparison in data.comparisons
            for change in comparison.changes
        ],
        "searches": [
            {
                "name": run.name,
                "evaluations": len(run.evaluations),
                "best": _ends("fitness", run.best) if run.best is not None else None,
                "finalists": [
                    {"name": finalist.name, "searched": finalist.searched, **_ends("fitness", finalist.judged)}
                    for finalist in run.finalists
                ],
            }
            for run in data.searches
        ],
        "fronts": [
            {"examples": scatter.split, "objectives": [one, other], "points": [_point(scatter, p) for p in found]}
            for scatter in data.scatters
            for one, other, found in fronts(scatter)
        ],
        "collections": [
            {
                "search": one.search,
                "members": [
                    {"name": m.name, "in": m.group, "scores": dict(zip(one.scores, m.scores, strict=True))}
                    for m in one.members
                ],
            }
            for one in data.gatherings
        ],
        "recipes": [
            {
                "model": recipe.name,
                "method": recipe.method,
                "genes": [asdict(gene) for gene in recipe.genes],
                "recipe": recipe.text,
            }
            for recipe in data.recipes
        ],
        "costs": [asdict(cost) for cost in data.costs],
        "lineage": [asdict(origin) for origin in data.lineage],
        "commands": list(data.commands),
        "facts": dict(data.facts),
    }


def _standings(data: ReportData) -> list[str]:
    rows = []
    for standing in data.standings:
        rows.append((standing.group, data.subject, "", percent(standing.score.value), interval(standing.score), "", ""))
        rows += [
            (
                standing.group,
                rival.name,
                rival.role,
                percent(rival.score.value),
                interval(rival.score),
                f"{points(rival.ahead.value)} ({points_interval(rival.ahead)})",
                verdict(rival.ahead),
            )
            for rival in standing.rivals
        ]
    heads = ("group", "model", "", "score", "95%", f"{data.subject}, points ahead", "")
    note = [markdown.plain(data.standings_note), ""] if data.standings_note else []
    return [*markdown.table(heads, rows, texts=3), *note] if rows else []


def _scores(data: ReportData) -> list[str]:
    if not data.models:
        return []
    names = [ability.name for ability in data.abilities]
    rows = [
        (model.name, KIND_OF_ONE[model.kind], *(_score(model.scores.get(name)) for name in names))
        for model in data.models
    ]
    return ["## Scores", "", *markdown.table(("model", "kind", *names), rows, texts=2)]


def _changes(data: ReportData) -> list[str]:
    if not data.comparisons:
        return []
    rows = [
        (
            comparison.rival,
            change.ability,
            points(change.delta.value),
            points_interval(change.delta),
            count(change.gained),
            count(change.lost),
        )
        for comparison in data.comparisons
        for change in comparison.changes
    ]
    heads = ("against", "ability", "points", "95%", "gained", "lost")
    return ["## Gains and losses", "", *markdown.table(heads, rows, texts=2)]


def _trade_offs(data: ReportData) -> list[str]:
    lines: list[str] = []
    for scatter in data.scatters:
        one, other, found = next(fronts(scatter))
        places = (scatter.objectives.index(one), scatter.objectives.index(other))
        rows = [
            (_origin(point), point.name, "chosen" if point.won else "", *(_score(point.scores[i]) for i in places))
            for point in found
        ]
        lines += [markdown.plain(f"The front of {one} and {other} on {scatter.split} examples:"), ""]
        lines += markdown.table(("search or kind", "name", "", one, other), rows, texts=3)
    return ["## Trade-offs", "", *lines] if lines else []


def _gatherings(data: ReportData) -> list[str]:
    lines: list[str] = []
    for one in data.gatherings:
        members = told_members(one)
        few = f", the best {len(members)} of {count(len(one.members))}" if len(members) < len(one.members) else ""
        lines += [markdown.plain(f"What {one.search} kept{few}:"), ""]
        rows = [(m.name, m.group, *("" if s is None else f"{s:.3f}" for s in m.scores)) for m in members]
        lines += markdown.table(("candidate", "in", *one.scores), rows, texts=2)
    return ["## Collection", "", *lines] if lines else []


def _searches(data: ReportData) -> list[str]:
    rows = [
        (run.name, finalist.name, percent(finalist.searched), _score(finalist.judged), "" if place else "won")
        for run in data.searches
        for place, finalist in enumerate(run.finalists)
    ]
    heads = ("search", "candidate", "in the search", "on every validation example", "")
    return ["## Finalists", "", *markdown.table(heads, rows, texts=2)] if rows else []


def _recipes(data: ReportData) -> list[str]:
    lines: list[str] = []
    for recipe in data.recipes:
        if recipe.text:
            lines += [f"{markdown.plain(recipe.name)} ({markdown.plain(recipe.method)}):", ""]
            lines += markdown.fenced(clean(recipe.text), "yaml")
    return ["## Recipes", "", *lines] if lines else []


def _costs(data: ReportData) -> list[str]:
    rows = [
        (
            cost.name,
            *map(count, (cost.evaluations, cost.failed, cost.cached, cost.examples)),
            duration(cost.seconds),
            duration(cost.cpu_seconds),
        )
        for cost in data.costs
    ]
    heads = ("run", "candidates", "failed", "from the ledger", "examples computed", "wall time", "processor time")
    return ["## Cost", "", *markdown.table(heads, rows)] if rows else []


def _end(data: ReportData) -> list[str]:
    lines = [f"*{markdown.plain(name)}*: {markdown.plain(value)}  " for name, value in data.facts]
    lines += [""] if lines else []
    if data.commands:
        lines += ["To reproduce:", "", *markdown.fenced(clean("\n".join(data.commands)))]
    return lines


def _score(score: Estimate | None) -> str:
    if score is None or score.value is None:
        return percent(None)
    return f"{percent(score.value)} ({interval(score)})" if score.has_interval else percent(score.value)


def _origin(point: ScatterPoint) -> str:
    return point.search if point.kind is None else KINDS[point.kind]


def _point(scatter: Scatter, point: ScatterPoint) -> dict[str, Any]:
    scores: Mapping[str, Estimate] = dict(zip(scatter.objectives, point.scores, strict=True))
    return {
        "name": point.name,
        "search": point.search,
        "kind": point.kind,
        "won": point.won,
        "scores": {name: _ends("mean", score) for name, score in scores.items()},
        "parents": [scatter.points[place].name for place in point.parents],
    }


def _ends(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: estimate.value, "lo": estimate.low, "hi": estimate.high}
