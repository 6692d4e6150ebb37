"""Trade-offs: the front is what nothing beats, and points are the ledger's, with what they came from."""

from __future__ import annotations

import json
from pathlib import Path

import made_study
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool import measure
from genepool.report import ExtraModel, collect_study
from genepool.report.pareto import front
from genepool.report.scatter_figure import Scatter, listed_points, scatter_data
from genepool.report.sections import tradeoffs
from genepool.report.sections.tradeoffs import TradeOffs

#: Few values, so that ties and equal points are met often.
LEVELS = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan")]), st.floats(0, 1))


@given(st.lists(st.tuples(LEVELS, LEVELS), max_size=30))
def test_a_point_is_on_the_front_exactly_when_no_other_beats_it(points: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    known = [i for i in range(len(points)) if not np.isnan(points[i]).any()]
    unbeaten = [
        i for i in known if not any(x[j] >= x[i] and y[j] >= y[i] and (x[j] > x[i] or y[j] > y[i]) for j in known)
    ]
    found = list(front(x, y))
    assert sorted(found) == unbeaten
    assert [x[i] for i in found] == sorted(x[i] for i in found)
    assert [y[i] for i in found] == sorted((y[i] for i in found), reverse=True)


def test_a_front_worked_out_by_hand() -> None:
    assert list(front([1, 3, 2, 3, 0, 1], [5, 1, 4, 0, 6, 5])) == [4, 0, 5, 2, 1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of which every candidate's outcomes are in the ledger, those of one with parents."""
    world = tmp_path_factory.mktemp("traded")
    made_study.make_tasks(world / "tasks")
    rng = np.random.default_rng(1)
    for strategy in ("cma_es", "random_search"):
        path = made_study.make_study(world, strategy) / "history.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for i, line in enumerate(lines):
            line["id"] = f"{strategy}-{i}"
            line["fingerprint"] = made_study.fingerprint(f"{strategy}-{i}") if line["fitness"] is not None else ""
            if strategy == "cma_es" and i >= 6:
                line["parents"] = [f"cma_es-{i - 6}"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        best = json.loads((path.parent / "best.json").read_text())
        best["id"] = f"{strategy}-20"
        (path.parent / "best.json").write_text(json.dumps(best))
    rates = {f"{s}-{i}": tuple(rng.uniform(0.3, 1, 3)) for s in ("cma_es", "random_search") for i in range(24)}
    made_study.make_ledger(world / "ledger.sqlite", world / "tasks", {**made_study.RATES, **rates})
    return world


def collected(world: Path) -> tuple[Scatter, Scatter]:
    merge = ExtraModel("ties 1.0", made_study.fingerprint("ties", "valid"))
    data = collect_study(world / "run-cma_es", beside=[world / "run-random_search"], extra_models=[merge])
    validation, test = data[TradeOffs].scatters
    return validation, test


@pytest.mark.slow
def test_candidates_stand_where_their_outcomes_put_them(world: Path) -> None:
    validation, test = collected(world)
    assert (validation.split, test.split) == ("validation", "test")
    assert validation.objectives == test.objectives == ("fitness", "worst task", "sort", "upper", "generic")
    # Candidate 4 of each search failed.
    assert validation.candidates == 46
    assert [point.name for point in validation.points if point.kind] == ["base", "sort", "upper", "ties 1.0"]
    assert sum(point.kind is None for point in validation.points) == 46
    for point, n in (*((one, 40) for one in validation.points), *((one, 70) for one in test.points)):
        fitness, worst, *tasks = point.scores
        means = [task.mean for task in tasks]
        assert worst.mean == min(means)
        assert fitness.mean == pytest.approx(0.75 * np.mean(means) + 0.25 * min(means))
        for score in point.scores:
            assert score.lo <= score.mean <= score.hi
        for task in tasks:
            assert tuple(task) == pytest.approx(measure.wilson(task.mean * n, n))


@pytest.mark.slow
def test_lines_lead_from_what_was_merged_and_from_recorded_parents(world: Path) -> None:
    validation, test = collected(world)
    by_name = {(point.search, point.name): point for point in validation.points}
    names = {place: (point.search, point.name) for place, point in enumerate(validation.points)}
    child = by_name["CMA-ES", "candidate 2 of generation 2"]
    assert [names[place] for place in child.parents] == [("CMA-ES", "candidate 2 of generation 1")]
    won = by_name["CMA-ES", "candidate 3 of generation 3"]
    assert won.won
    assert [names[place][1] for place in won.parents] == ["candidate 3 of generation 2", "base", "sort", "upper"]
    assert [point.name for point in validation.points if point.won] == ["candidate 3 of generation 3"] * 2
    assert not by_name["random search", "candidate 1 of generation 2"].parents
    winners = [point for point in test.points if point.won]
    assert [winner.name for winner in winners] == ["random search", "CMA-ES"]
    for winner in winners:
        assert [test.points[place].name for place in winner.parents] == ["base", "sort", "upper"]
    assert not next(point for point in test.points if point.name == "ties 1.0").parents


@pytest.mark.slow
def test_a_long_search_keeps_fronts_finalists_and_the_winners_ancestors(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, _ = collected(world)
    monkeypatch.setattr(tradeoffs, "SHOWN", 20)
    some, _ = collected(world)
    shown = {(point.search, point.name) for point in some.points if point.kind is None}
    assert len(shown) == 20
    assert some.candidates == 46
    assert shown < {(point.search, point.name) for point in every.points}
    for place in range(4):
        assert ("CMA-ES", f"candidate 3 of generation {place}") in shown
    lines = [json.loads(line) for line in (world / "run-cma_es" / "history.jsonl").read_text().splitlines()]
    best = max((line for line in lines if line["fitness"] is not None), key=lambda line: line["valid"]["sort"])
    assert ("CMA-ES", f"candidate {best['index'] + 1} of generation {best['generation']}") in shown


def test_without_outcomes_there_is_nothing_to_draw(world: Path) -> None:
    data = collect_study(world / "run-cma_es", ledger=world / "nothing.sqlite")
    assert data[TradeOffs].scatters == ()


@pytest.mark.slow
def test_the_picture_is_given_every_point_and_the_table_the_front(world: Path) -> None:
    scatters = collected(world)
    told = json.loads(scatter_data(scatters, ["CMA-ES", "random search"]))
    for split, scatter in zip(told["splits"], scatters, strict=True):
        assert len(split["points"]) == len(scatter.points)
        for (name, series, won, numbers, parents), point in zip(split["points"], scatter.points, strict=True):
            assert (name, bool(won), tuple(parents)) == (point.name, point.won, point.parents)
            assert split["series"][series][2] == (
                "disc"
                if point.kind is None
                else {"base": "square", "parent": "triangle", "merge": "diamond"}[point.kind]
            )
            assert numbers[::3] == pytest.approx([score.mean for score in point.scores], abs=1e-4)
        rows = listed_points(scatter)
        values = np.array([[score.mean for score in point.scores] for point in scatter.points])
        on_front = {scatter.points[i] for i in front(values[:, 0], values[:, 1])}
        assert {point for point, on_it in rows if on_it} == on_front
        assert {point for point in scatter.points if point.won or point.kind} <= {point for point, _ in rows}
