"""The study as Markdown and as plain values: the page's numbers, and no text that becomes markup."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_page import HOSTILE, hostile_report

from genepool.report import Report, markdown, report_markdown, report_values
from genepool.report.sections.changes import Changes
from genepool.report.sections.collection import Collection
from genepool.report.sections.cost import Costs
from genepool.report.sections.scores import Scores
from genepool.report.sections.search import SearchCurves
from genepool.report.sections.standings import Standings
from genepool.report.sections.tradeoffs import TradeOffs


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text: rows of cells, without the rule."""
    found = []
    for block in re.split(r"\n\n+", text):
        lines = block.splitlines()
        if len(lines) > 1 and re.fullmatch(r"[|:-]+", lines[1]):
            rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in (lines[0], *lines[2:])]
            found.append([[cell.strip() for cell in row] for row in rows])
    return found


def test_markdown_has_the_pages_numbers(report_data: Report) -> None:
    standings, scores, changes, *between, finalists, costs = tables(report_markdown(report_data))
    kept = between[len(report_data[TradeOffs].scatters) :]
    assert [len(rows) - 1 for rows in kept] == [len(one.members) for one in report_data[Collection].searches]
    assert [row[:3] for row in kept[-1][1:]] == [
        ["3.0", "knee", "0.500"],
        ["3.1", "front", "0.600"],
        ["3.2", "front", "0.700"],
    ]
    assert len(standings) == 1 + sum(1 + len(standing.rivals) for standing in report_data[Standings].standings)
    assert scores[0] == ["model", "kind", *(task.name for task in report_data[Scores].tasks)]
    for row, model in zip(scores[1:], report_data[Scores].models, strict=True):
        for cell, task in zip(row[2:], report_data[Scores].tasks, strict=True):
            score = model.scores[task.name]
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert (value, low, high) == pytest.approx([100 * x for x in (score.mean, score.lo, score.hi)], abs=0.051)
    expected = [(c.rival, change) for c in report_data[Changes].comparisons for change in c.changes]
    for row, (rival, change) in zip(changes[1:], expected, strict=True):
        assert row[0] == markdown.plain(rival)
        assert float(row[2].replace("−", "-")) == pytest.approx(100 * change.delta.mean, abs=0.051)
        assert (int(row[4].replace(",", "")), int(row[5].replace(",", ""))) == (change.gained, change.lost)
    assert [row[4] for row in finalists[1:]] == ["won", ""] * len(report_data[SearchCurves].searches)
    assert len(costs) == 1 + len(report_data[Costs].costs)


def test_hostile_text_is_no_markup() -> None:
    text = report_markdown(hostile_report())
    outside = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", text)
    assert "<" not in outside.replace("\\<", "")
    assert "\x00" not in text
    for rows in tables(text):
        assert len({len(row) for row in rows}) == 1
    text.encode("utf-8")


@given(st.text(), st.integers(0, 9))
def test_a_fence_cannot_be_closed_from_inside(text: str, ticks: int) -> None:
    first, *inside, last, _ = markdown.fenced(f"{text}\n{'`' * ticks}\n{text}", "yaml")
    assert first == f"{last}yaml"
    assert set(last) == {"`"}
    assert not any(last in line for line in inside)


@given(st.text())
def test_a_cell_cannot_be_left(text: str) -> None:
    row = markdown.line("a", text, "b")
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 4
    assert len(row.splitlines()) == 1


def test_an_empty_report_is_its_title() -> None:
    assert report_markdown(Report(title="Nothing *yet*")) == "# Nothing \\*yet\\*\n"
    assert report_values(Report(title="t"))["scores"] == []


def test_the_values_are_whole_and_can_be_written(report_data: Report) -> None:
    values = report_values(report_data)
    assert json.loads(json.dumps(values, allow_nan=False)) == json.loads(json.dumps(values))
    assert len(values["scores"]) == len(report_data[Scores].models) * len(report_data[Scores].tasks)
    first, score = values["scores"][0], report_data[Scores].models[0].scores["reverse"]
    assert (first["mean"], first["lo"], first["hi"]) == (score.mean, score.lo, score.hi)
    objectives = report_data[TradeOffs].scatters[0].objectives
    pairs = len(objectives) * (len(objectives) - 1) // 2
    assert len(values["fronts"]) == 2 * pairs
    winner = next(point for front in values["fronts"] for point in front["points"] if point["name"] == "CMA-ES")
    assert winner["parents"] == ["base", "reverse", "sort", "upper", "caesar"]
    assert HOSTILE in report_values(hostile_report())["title"]
