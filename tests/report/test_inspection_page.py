"""The page of an inspection: complete without the outside, every number in it, and nobody's names taken for markup."""

from __future__ import annotations

import re

import pytest
from made_inspection import made_up_inspection

from genepool.merging.inspection.wording import cosine_text, relative_text
from genepool.report import render_inspection
from genepool.report.layers_figure import layers_figure


def test_it_asks_for_nothing_from_outside() -> None:
    page = render_inspection(made_up_inspection())
    assert not re.findall(r"""(?:src|href|action)=["'](?!#)""", page)
    assert "url(" not in page
    assert "default-src &#39;none&#39;" in page


def test_every_section_and_number_is_there() -> None:
    found = made_up_inspection()
    page = render_inspection(found)
    assert found.deltas is not None
    assert "They fit together" in page
    for anchor in ("models", "distance", "agreement", "rank"):
        assert page.count(f'id="{anchor}"') == 1
        assert f'href="#{anchor}"' in page
    for i in range(3):
        assert relative_text(found.deltas.relative()[i]) in page
        for j in range(i):
            assert page.count(f">{cosine_text(found.deltas.cosine[i][j])}</td>") >= 2
    assert len(re.findall(r'<svg class="chart"', page)) == 4


def test_one_model_has_no_comparison() -> None:
    page = render_inspection(made_up_inspection(0))
    assert "One model by itself." in page
    assert not re.search(r'id="(distance|agreement|rank)"', page)


def test_names_are_text_and_problems_are_shown() -> None:
    found = made_up_inspection(hostile=True)
    page = render_inspection(found)
    assert "They do not fit together" in page
    assert page.count("<script>") == 1
    assert "<b>base" not in page
    assert len(re.findall('class="notice"', page)) == len(found.problems) > 0


def test_a_mean_of_ranks_says_how_far_its_matrices_are_apart() -> None:
    found = made_up_inspection()
    page = render_inspection(found)
    assert found.ranks is not None
    table = re.search(r'<table[^>]* data-csv="effective rank by layer.*?</table>', page, re.DOTALL)
    assert table is not None
    cells = re.findall(r'data-v="([\d.]+)" data-lo="([\d.]+)" data-hi="([\d.]+)"', table[0])
    layers = sorted({matrix.layer for matrix in found.ranks.matrices})
    expected = [
        [matrix.values[i] for matrix in found.ranks.matrices if matrix.layer == layer]
        for layer in layers
        for i in range(3)
    ]
    assert len(cells) == len(expected)
    for cell, values in zip(cells, expected, strict=True):
        shown = [sum(values) / len(values), min(values), max(values)]
        assert [float(end) for end in cell] == pytest.approx(shown, rel=1e-4)
    charts = re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)
    wide = next(chart for chart in charts if "effective rank" in chart)
    assert len(re.findall(r"M[\d.]+ [\d.]+V", wide)) == len(expected)


@pytest.mark.parametrize("lines", [[], [[]], [[], []]])
def test_no_points_no_picture(lines: list[list[tuple[int, float]]]) -> None:
    assert layers_figure(lines, "nothing", width=300, height=200) == ""


@pytest.mark.parametrize("points", [[(0, 0.0)], [(3, 1e-7), (80, 2e-7)], [(i, 10.0 ** (i % 5)) for i in range(100)]])
def test_points_stay_inside_the_picture(points: list[tuple[int, float]]) -> None:
    picture = layers_figure([points], "a line", unit="%", width=300, height=200)
    places = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", str(picture))
    assert len(places) >= 2 * len(points)
    assert all(0 <= float(x) <= 300 and 0 <= float(y) <= 200 for x, y in places)
    assert "nan" not in picture
