"""The sentence a page opens with: counted by hand, singular and plural, nothing gained, a study in any state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import made_study
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool import measure
from genepool.report import collect_study, render_report, report_markdown, report_on, report_values
from genepool.report.headline import headline
from genepool.tasks import OutcomeTable
from genepool.tasks.example import Example
from genepool.tasks.ledger import Outcome
from genepool.tasks.table import TaskOutcomes

GROUPS = {"sort": "skills", "upper": "skills", "copy": "generic"}


def table_of(**models: Mapping[str, Sequence[float]]) -> OutcomeTable:
    """Outcomes from scores: model -> task -> score of every example."""
    first = next(iter(models.values()))
    examples = {task: [Example(f"{task}{i}", "?", ("x",)) for i in range(len(first[task]))] for task in first}
    cells = {
        (model, task): TaskOutcomes(tuple(Outcome(float(score), "x") for score in scores), 0)
        for model, rows in models.items()
        for task, scores in rows.items()
    }
    return OutcomeTable(cells, examples, {name: name.encode().hex().ljust(64, "0") for name in models}, "test")


def said(subject: Sequence[Sequence[float]], rival: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> str:
    rows = [dict(zip(GROUPS, scores, strict=True)) for scores in (subject, rival, base)]
    table = table_of(best=rows[0], other=rows[1], base=rows[2])
    return headline(table, "best", "other", GROUPS, base="base")


def test_answers_are_counted_and_what_the_base_knew() -> None:
    found = said(([1, 1, 1, 0], [1, 1], [1, 0, 0, 1]), ([1, 0, 0, 0], [1, 1], [1] * 4), ([0] * 4, [0, 0], [1, 1, 1, 0]))
    assert found.startswith("best answers 5 of 6 test questions on skills, 2 more than other (95% interval ")
    assert found.endswith("); of the base’s 3 generic answers it lost 2, and it gained 1 other.")


def test_one_of_everything_is_said_in_the_singular() -> None:
    table = table_of(best={"sort": [1]}, other={"sort": [0]}, base={"sort": [1]})
    found = headline(table, "best", "other", {"sort": "tasks"}, base="base")
    assert found.startswith("best answers 1 of 1 test question, 1 more than other (")
    assert found.endswith("; the base’s one answer it kept.")
    one = table_of(best={"sort": [0]}, base={"sort": [1]})
    assert headline(one, "best", "", {"sort": "tasks"}, base="base") == (
        "best answers 0 of 1 test question; the base’s one answer it lost."
    )


@pytest.mark.parametrize(
    ("subject", "rival", "words"),
    [
        ([1, 0, 1], [0, 1, 1], "as many as other (95% interval −3 to 3: no clear difference)"),
        ([1, 1, 1], [1, 1, 1], "as many as other (95% interval 0 to 0: no clear difference)"),
        ([0, 0, 0], [1, 1, 1], "3 fewer than other (95% interval 3 to 3)"),
        ([1, 1, 1], [0, 0, 0], "3 more than other (95% interval 3 to 3)"),
    ],
)
def test_nothing_gained_is_said(subject: list[float], rival: list[float], words: str) -> None:
    found = headline(table_of(best={"a": subject}, other={"a": rival}), "best", "other", {"a": "tasks"})
    assert found == f"best answers {sum(subject)} of 3 test questions, {words}."


def test_a_base_that_knew_nothing_has_nothing_to_lose() -> None:
    none, two = ([0, 0], [0], [0, 0, 0]), ([0, 0], [0], [1, 1, 0])
    assert said(none, none, none).endswith("; the base answered none of the 3 generic questions.")
    assert said(two, none, none).endswith("; the base answered none of the 3 generic questions, of which it gained 2.")
    assert said(two, two, two).endswith("; of the base’s 2 generic answers it lost none.")


def test_scores_between_right_and_wrong_are_means_and_not_counted() -> None:
    half, more = ([0.5, 0.25], [0.75], [1, 1]), ([0.75, 0.5], [0.75], [1, 0])
    found = said(more, half, half)
    assert found.startswith("best scores 68.8% on test, on skills, 12.5 points more than other (95% interval ")
    assert found.endswith("; of the base’s 2 generic answers it lost 1.")
    assert ", 12.5 points less than other (" in said(half, more, half)
    assert ", as much as other (95% interval 0.0 to 0.0: no clear difference)" in said(half, half, half)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
def test_the_interval_of_a_count_is_that_of_the_mean_where_tasks_are_equally_long(
    seed: int, n: int, other: int
) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = ({"sort": rng.integers(0, 2, n).tolist(), "upper": rng.integers(0, 2, n).tolist()} for _ in range(2))
    groups = {"sort": "skills", "upper": "skills"}
    table = table_of(best=ours, other=theirs)
    delta = measure.mean_difference(table, "best", "other")
    more = round(2 * n * delta.difference)
    assert more == sum(map(sum, ours.values())) - sum(map(sum, theirs.values()))
    ends = [delta.lo, delta.hi] if more >= 0 else [-delta.hi, -delta.lo]
    low, high = (f"{round(2 * n * end):,}".replace("-", "−") for end in ends)
    assert f"(95% interval {low} to {high}" in headline(table, "best", "other", groups)
    # Of unequal lengths it is still the examples that are counted.
    uneven = table_of(best={"sort": [1] * n, "upper": [0] * other}, other={"sort": [0] * n, "upper": [1] * other})
    word = f"{abs(n - other):,} {'more' if n > other else 'fewer'} than" if n != other else "as many as"
    assert f", {word} other (95% interval {abs(n - other):,} to {abs(n - other):,}" in headline(
        uneven, "best", "other", groups
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    made_study.make_tasks(folder / "tasks")
    made_study.make_ledger(folder / "ledger.sqlite", folder / "tasks")
    made_study.make_study(folder, "cma_es")
    return folder


def test_every_form_of_the_page_opens_with_it(world: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    data = collect_study(world / "run-cma_es")
    assert data.headline.startswith("The winner of CMA-ES answers ")
    assert " of 140 test questions on skills, " in data.headline
    assert " more than the best specialist (95% interval " in data.headline
    page = render_report(data)
    assert page.index("<h1>") < page.index(data.headline.split("’")[0][:60]) < page.index('class="summary"')
    assert report_markdown(data).splitlines()[2].startswith("The winner of CMA-ES answers ")
    assert report_values(data)["headline"] == data.headline
    told = cli("report", world / "run-cma_es", "--out", tmp_path / "page.md", "--json")
    assert json.loads(told.out)["headline"] == data.headline


def test_an_unfinished_study_and_a_lost_ledger_say_what_is_known(world: Path, tmp_path: Path) -> None:
    place = tmp_path / "world"
    place.mkdir()
    shutil.copytree(world / "tasks", place / "tasks")
    running = made_study.make_study(place, "random_search", finished=False)
    found = collect_study(running).headline
    assert found.startswith("Nothing was gained or lost yet: the best of 11 candidates so far scores ")
    (running / "history.jsonl").write_text("")
    assert collect_study(running).headline == "Nothing was gained or lost yet: no candidate has been judged."
    lost = collect_study(made_study.make_study(place, "cma_es"), ledger=place / "none.sqlite").headline
    assert lost.startswith("The winner of CMA-ES scores 88.3% on test, the base 46.7%; the ledger does not say ")


def test_a_page_without_a_study_has_one_too() -> None:
    table = table_of(old={"a": [1, 0]}, new={"a": [1, 1]})
    data = report_on(table, {"old": "base", "new": "winner"}, title="t", subject="new")
    assert data.headline.startswith("new answers 2 of 2 test questions, 1 more than old (95% interval ")
    assert data.headline.endswith("; the base’s one answer it kept, and it gained 1 other.")
    assert report_on(table, {"old": "base", "new": "winner"}, title="t").headline == ""
