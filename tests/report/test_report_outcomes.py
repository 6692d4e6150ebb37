"""A page for a table of outcomes without a study, and how few of many flips are shown."""

from __future__ import annotations

import numpy as np
import pytest

from genepool import measure
from genepool.report import render_report, report_on
from genepool.report.flips import FLIPS_SHOWN
from genepool.report.sections.changes import FLIPS_EACH, Changes
from genepool.report.sections.scores import Scores
from genepool.report.sections.standings import Standings
from genepool.tasks import Example, Outcome, OutcomeTable
from genepool.tasks.table import TaskOutcomes


def table_of(scores: dict[str, dict[str, np.ndarray]], *, outputs: bool = True) -> OutcomeTable:
    """A table from scores by model and task."""
    tasks = next(iter(scores.values()))
    examples = {
        task: [Example(f"{task}-{i}", f"{task} {i}?", ("yes", "ja")) for i in range(len(values))]
        for task, values in tasks.items()
    }
    cells = {
        (model, task): TaskOutcomes(
            tuple(Outcome(float(value), f"{value}" if outputs or value > 0.5 else None) for value in values), 0
        )
        for model, row in scores.items()
        for task, values in row.items()
    }
    return OutcomeTable(cells, examples, {model: model * 8 for model in scores}, "test")


def many(models: int, tasks: int, n: int = 50) -> OutcomeTable:
    rng = np.random.default_rng(1)
    return table_of(
        {f"m{i}": {f"t{j}": (rng.random(n) < 0.5).astype(float) for j in range(tasks)} for i in range(models)}
    )


def test_models_without_a_study_get_a_page() -> None:
    table = many(3, 2)
    data = report_on(
        table, {"m0": "base", "m1": "parent", "m2": "merge"}, title="Three", subject="m2", groups={"t1": "b", "t0": "a"}
    )
    assert data[Scores].groups == ("a", "b")
    assert [comparison.rival for comparison in data[Changes].comparisons] == ["m0", "m1"]
    assert [rival.role for rival in data[Standings].standings[0].rivals] == ["base", "specialist"]
    matrix = measure.CrossMatrix.of(table)
    for model in data[Scores].models:
        for task in table.tasks:
            shown = model.scores[task]
            assert (shown.mean, shown.lo, shown.hi) == matrix.cells[model.name, task]
    page = render_report(data)
    assert 'id="search"' not in page
    assert 'id="scores"' in page


def test_without_a_subject_nothing_is_compared() -> None:
    data = report_on(many(2, 1), {"m0": "merge", "m1": "merge"}, title="Two")
    assert (data[Standings].standings, data[Changes].comparisons) == ((), ())


def test_a_models_second_accepted_answer_is_shown_too() -> None:
    data = report_on(many(2, 1), {"m0": "merge", "m1": "merge"}, title="t", subject="m0")
    assert data[Changes].comparisons[0].flips[0].expected == "yes · ja"


@pytest.mark.slow
@pytest.mark.parametrize(("models", "tasks"), [(2, 2), (9, 5), (31, 8)])
def test_flips_are_few_from_every_side_and_different(models: int, tasks: int) -> None:
    kinds = {f"m{i}": "merge" for i in range(models)}
    data = report_on(many(models, tasks), kinds, title="t", subject="m0")  # type: ignore[arg-type]
    assert len(data[Changes].comparisons) == models - 1
    assert sum(len(comparison.flips) for comparison in data[Changes].comparisons) <= FLIPS_SHOWN
    for comparison in data[Changes].comparisons:
        shown = [(flip.task, flip.example) for flip in comparison.flips]
        assert len(shown) == len(set(shown))
        assert {flip.gained for flip in comparison.flips} == {True, False}
        sides = [(flip.task, flip.gained) for flip in comparison.flips]
        assert max(sides.count(side) for side in sides) <= FLIPS_EACH


def test_flips_whose_outputs_were_kept_come_first() -> None:
    zeros, ones = np.zeros(20), np.ones(20)
    table = table_of({"old": {"t": zeros}, "new": {"t": ones}}, outputs=False)
    flips = report_on(table, {"old": "base", "new": "winner"}, title="t", subject="new")[Changes].comparisons[0].flips
    assert len(flips) == FLIPS_EACH
    assert all(flip.rival_said is None for flip in flips)
    assert "unkept" in render_report(report_on(table, {"old": "base", "new": "winner"}, title="t", subject="new"))
