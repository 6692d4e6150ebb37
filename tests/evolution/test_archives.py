"""Archives: pyribs agrees cell by cell; tessellations are even; what is not a number is refused."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.evolution.archives import CvtArchive, GridArchive, Status

offers = st.lists(st.tuples(st.integers(0, 40), st.integers(-5, 45), st.integers(-5, 45)), min_size=1, max_size=60)


@given(offers)
def test_a_grid_keeps_what_pyribs_keeps(drawn: list[tuple[int, int, int]]) -> None:
    ribs = importlib.import_module("ribs.archives")
    theirs = ribs.GridArchive(solution_dim=1, dims=[10, 4], ranges=[(0, 1), (-1, 1)])
    ours = GridArchive([10, 4], [(0, 1), (-1, 1)])
    for i, (objective, x, y) in enumerate(drawn):
        measures = [x / 40, y / 20 - 1]
        told = theirs.add_single([i], objective / 40, measures)
        status, value = ours.add(i, objective / 40, measures)
        assert int(told["status"]) == status
        assert float(told["value"]) == pytest.approx(value)
    data = theirs.data(return_type="dict")
    kept = sorted(zip(data["index"].tolist(), data["solution"][:, 0].astype(int).tolist(), strict=True))
    assert [(elite.cell, elite.item) for elite in ours.elites()] == kept
    assert ours.coverage == pytest.approx(theirs.stats.coverage)
    assert ours.qd_score == pytest.approx(theirs.stats.qd_score)


def test_a_tessellation_puts_solutions_where_pyribs_does() -> None:
    ribs = importlib.import_module("ribs.archives")
    ours = CvtArchive(30, [(0, 2), (-1, 1)], seed=3)
    theirs = ribs.CVTArchive(solution_dim=1, centroids=ours.centroids, ranges=[(0, 2), (-1, 1)])
    places = np.random.default_rng(0).uniform([0, -1], [2, 1], size=(300, 2))
    assert [ours.cell(place) for place in places] == theirs.index_of(places).tolist()


def test_cells_of_a_tessellation_are_about_equally_large() -> None:
    archive = CvtArchive(20, [(0, 1), (0, 1), (0, 1)], seed=1)
    places = np.random.default_rng(1).random((4000, 3))
    counts = np.bincount([archive.cell(place) for place in places], minlength=20)
    assert counts.min() > 4000 / 20 / 3
    assert counts.max() < 4000 / 20 * 3
    assert np.array_equal(archive.centroids, CvtArchive(20, [(0, 1), (0, 1), (0, 1)], seed=1).centroids)


def test_the_better_takes_the_cell_and_an_equal_does_not() -> None:
    archive = GridArchive([2], [(0, 1)])
    assert archive.add("a", 0.5, [0.1]) == (Status.NEW, 0.5)
    assert archive.add("b", 0.5, [0.2]) == (Status.REJECTED, 0.0)
    assert archive.add("c", 0.7, [0.3]) == (Status.IMPROVED, pytest.approx(0.2))
    assert archive.add("d", 0.1, [7.0]) == (Status.NEW, 0.1)
    assert [elite.item for elite in archive.elites()] == ["c", "d"]
    assert archive.best() == archive.elites()[0]
    assert GridArchive([2], [(0, 1)]).best() is None


@pytest.mark.parametrize(("objective", "measures"), [(np.nan, [0.1]), (0.1, [np.inf]), (0.1, [0.1, 0.2])])
def test_what_is_no_place_is_refused(objective: float, measures: list[float]) -> None:
    with pytest.raises(ValueError, match="finite|axes"):
        GridArchive([2], [(0, 1)]).add("a", objective, measures)


def test_shapes_and_ranges_must_fit() -> None:
    for make in (
        lambda: GridArchive([2, 2], [(0, 1)]),
        lambda: GridArchive([0], [(0, 1)]),
        lambda: GridArchive([2], [(1, 1)]),
        lambda: CvtArchive(0, [(0, 1)]),
    ):
        with pytest.raises(ValueError, match=r"shape|ranges|cells"):
            make()


@pytest.mark.parametrize(("cells", "axes"), [(1000, 2), (200, 6)])
def test_many_cells_are_about_equally_large_too(cells: int, axes: int) -> None:
    archive = CvtArchive(cells, [(0, 1)] * axes, seed=2)
    places = np.random.default_rng(3).random((20 * cells, axes))
    counts = np.bincount([archive.cell(place) for place in places], minlength=cells)
    assert counts.min() > 0
    assert counts.max() < 100
