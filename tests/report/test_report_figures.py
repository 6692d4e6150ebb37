"""The figures: what a search curve, a bar and a recipe panel draw follows from the data."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.measure import NOT_MEASURED, Interval
from genepool.report import bars, recipe_figure, search_figure, svg
from genepool.report.recipe_figure import GeneValue, RecipePicture
from genepool.report.search_figure import Evaluation, ReferenceLine, SearchRun

FITNESS = st.one_of(st.none(), st.floats(-1, 2))


def run_of(fitness: list[float | None], generation: int = 4) -> SearchRun:
    return SearchRun("run", tuple(Evaluation(value, i // generation) for i, value in enumerate(fitness)))


@given(st.lists(FITNESS, max_size=60))
def test_the_best_so_far_is_the_running_maximum(fitness: list[float | None]) -> None:
    curve = search_figure.curve(run_of(fitness))
    steps = dict(curve.best)
    so_far: float | None = None
    for i, value in enumerate(fitness, start=1):
        if value is not None and (so_far is None or value > so_far):
            so_far = value
            assert steps[i] == value
        else:
            assert i not in steps
    assert [at for at, _ in curve.best] == sorted(steps)


@given(st.lists(FITNESS, max_size=60), st.integers(1, 12))
def test_bands_hold_the_middle_and_lie_inside_the_data(fitness: list[float | None], generation: int) -> None:
    known = [value for value in fitness if value is not None]
    bands = search_figure.curve(run_of(fitness, generation)).bands
    assert bool(bands) == bool(known)
    for band in bands:
        assert min(known) <= band.low <= band.middle <= band.high <= max(known)
    assert [band.at for band in bands] == sorted(band.at for band in bands)


def test_a_band_is_the_quantiles_of_its_generation() -> None:
    curve = search_figure.curve(run_of([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], generation=11))
    (band,) = curve.bands
    assert (band.at, band.low, band.middle, band.high) == pytest.approx((6, 0.1, 0.5, 0.9))


@given(st.lists(FITNESS, min_size=1, max_size=40), st.lists(FITNESS, max_size=40))
def test_any_searches_draw_inside_the_frame(first: list[float | None], second: list[float | None]) -> None:
    curves = [search_figure.curve(run_of(first)), search_figure.curve(run_of(second))]
    picture = search_figure.search_figure(curves, [], width=960, height=400)
    if not any(curve.points for curve in curves):
        assert picture == ""
        return
    root = ElementTree.fromstring(picture)
    points = json.loads(root.attrib["data-points"])
    assert len(points) == sum(value is not None for value in first + second)
    assert all(0 <= x <= 960 and 0 <= y <= 400 for x, y, *_ in points)
    assert [row[0] for row in points] == sorted(row[0] for row in points)


def test_a_search_of_many_candidates_keeps_its_records() -> None:
    fitness: list[float | None] = [0.5 + (i % 7) / 100 for i in range(10_000)]
    fitness[4321] = 0.9
    curve = search_figure.curve(run_of(fitness, 20))
    root = ElementTree.fromstring(search_figure.search_figure([curve], [], width=960, height=400))
    points = json.loads(root.attrib["data-points"])
    assert len(points) < 2 * search_figure.DOTS
    assert max(row[5] for row in points) == 0.9
    assert 4322 in {row[3] for row in points}


def test_a_level_is_drawn_with_its_interval() -> None:
    curve = search_figure.curve(run_of([0.2, 0.4]))
    level = ReferenceLine("static", Interval(0.9, 0.85, 0.95))
    root = ElementTree.fromstring(search_figure.search_figure([curve], [level], width=960, height=400))
    band = next(node for node in root.iter("rect") if node.attrib["class"] == "level-band")
    line = next(node for node in root.iter("line") if node.attrib["class"] == "level")
    assert float(band.attrib["y"]) < float(line.attrib["y1"]) < float(band.attrib["y"]) + float(band.attrib["height"])


@given(st.lists(FITNESS, min_size=1, max_size=40))
def test_milestones_end_at_the_last_evaluation_with_the_overall_best(fitness: list[float | None]) -> None:
    rows = search_figure.milestones(search_figure.curve(run_of(fitness)))
    assert rows[-1][0] == len(fitness)
    assert rows[-1][1] == max((value for value in fitness if value is not None), default=None)


@pytest.mark.parametrize(("value", "side"), [(0.1, "gain"), (-0.1, "loss")])
def test_a_bar_goes_from_zero_to_its_difference(value: float, side: str) -> None:
    root = ElementTree.fromstring(bars.diverging_bar(Interval(value, value - 0.02, value + 0.02), 0.2))
    bar = next(root.iter("rect"))
    assert bar.attrib["class"] == side
    left, width = float(bar.attrib["x"]), float(bar.attrib["width"])
    assert (left, left + width) == pytest.approx((500, 750) if value > 0 else (250, 500))
    assert [node.attrib["class"] for node in root.iter("path")].count("whisker") == 3


def test_a_difference_that_was_not_measured_draws_no_bar() -> None:
    root = ElementTree.fromstring(bars.diverging_bar(NOT_MEASURED, 0.2))
    assert not list(root.iter("rect"))


@given(st.floats(-1, 1), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0.02, 1))
def test_a_cell_is_coloured_only_where_the_interval_leaves_zero_out(
    value: float, below: float, above: float, limit: float
) -> None:
    delta = Interval(value, value - below, value + above)
    tilt = bars.tilt(delta, limit)
    if delta.lo <= 0 <= delta.hi:
        assert tilt == "level"
    else:
        assert tilt[:-1] == ("up" if value > 0 else "down")
        assert 1 <= int(tilt[-1]) <= 5
        assert int(tilt[-1]) == 5 or abs(value) <= int(tilt[-1]) / 5 * limit + 1e-9
    assert bars.tilt(Interval(value), limit) == "level"


@given(st.lists(st.floats(-1, 1), max_size=10))
def test_the_shared_axis_reaches_every_difference(values: list[float]) -> None:
    assert bars.reach(Interval(value) for value in values) >= max((abs(value) for value in values), default=0)


@given(st.lists(st.floats(0, 1), max_size=10))
def test_the_common_range_holds_every_score(values: list[float]) -> None:
    low, high = bars.common_range([Interval(value) for value in values])
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    assert high >= low


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 10))
def test_ticks_are_inside_in_order_and_not_many(low: float, width: float, about: int) -> None:
    found = svg.ticks(low, low + width, about)
    assert found == sorted(set(found))
    assert len(found) <= 3 * about + 2
    assert all(low - 1e-6 * width <= tick <= low + width + 1e-6 * width for tick in found)


def gene(skill: str | None, layers: tuple[int, int] | None, role: str | None, value: float) -> GeneValue:
    return GeneValue("weight", skill, layers, role, value, 0.0, 2.0)


def test_a_panel_has_skills_down_and_layers_and_roles_across() -> None:
    genes = [
        gene("sort", (2, 3), None, 0.6),
        gene("sort", (0, 1), "mlp", 0.2),
        gene("sort", (0, 1), "attention", 0.1),
        gene("sort", (2, 3), "attention", 0.4),
        gene("upper", (0, 1), "attention", 1.0),
        GeneValue("lambda", None, None, None, 1.0, 0.5, 1.5),
    ]
    weight, scale = recipe_figure.panels(RecipePicture("m", "ties", tuple(genes)))
    assert weight.groups == (("layers 0–1", 2), ("layers 2–3", 2))
    assert [heading for heading, _ in weight.columns] == ["attention", "mlp", "attention", "other"]
    assert len({key for _, key in weight.columns}) == 4
    (first, sort), (second, upper) = weight.rows
    assert (first, [cell.value if cell else None for cell in sort]) == ("sort", [0.1, 0.2, 0.4, 0.6])
    assert (second, [cell.value if cell else None for cell in upper]) == ("upper", [1.0, None, None, None])
    assert scale.rows[0][0] == "all skills"
    assert scale.groups == ()
    assert (scale.low, scale.high) == (0.5, 1.5)


def test_elements_escape_what_they_are_given() -> None:
    text = svg.element("text", "<b> & \x00", class_='"x"')
    assert text == '<text class="&#34;x&#34;">&lt;b&gt; &amp; ␀</text>'
