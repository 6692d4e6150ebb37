"""The page of a comparison, and the same as Markdown: the numbers are those measured, and texts stay texts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_comparison import made_comparison

from genepool.measure import NOT_MEASURED, Gate, Interval, check_gates, compare
from genepool.report.comparison_page import Compared, comparison_markdown, render_comparison, state, summary
from genepool.report.flips import ShownFlip
from genepool.report.parallel_figure import ModelLine, parallel_figure
from genepool.report.text_diff import marked
from genepool.tasks import Pairs

HOSTILE = '<script>alert("x")</script> | `a` \u202e*b*\x00'


def test_the_page_shows_the_measured_numbers() -> None:
    compared = made_comparison()
    page = render_comparison([compared], {"split": "test"})
    for task in compared.comparison.tasks:
        matrix = task.compatibility.matrix
        row = re.search(rf'<tr><th scope="row" data-v="{task.task}">.*?</tr>', page, re.DOTALL)
        assert row is not None
        values = re.findall(r'data-v="([^"]*)"', row[0])
        shown = [
            task.n,
            task.old.mean,
            task.new.mean,
            task.difference.difference,
            matrix.gained,
            matrix.lost,
        ]
        assert [float(value) for value in values[1:7]] == pytest.approx(shown, rel=1e-5)
    assert summary(compared) in page.replace("&#39;", "'")
    for gate in compared.gates:
        assert gate.limit in page
    assert {state(gate) for gate in compared.gates} == {"holds", "undecided", "fails"}
    assert "✓ holds" in page
    assert "✗ fails" in page


def test_markdown_says_the_same() -> None:
    compared = made_comparison()
    text = comparison_markdown([compared], {"split": "test"})
    for task in compared.comparison.tasks:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {task.task} |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert int(cells[1].replace(",", "")) == task.n
        assert float(cells[2]) == pytest.approx(100 * task.old.mean, abs=0.05)
        assert cells[-1] == task.verdict
    assert "gates hold" in text


@pytest.mark.slow
def test_one_task_all_right_all_wrong_and_many_models() -> None:
    ones, zeros = np.ones(40), np.zeros(40)
    for old, new in ((ones, ones), (zeros, zeros), (zeros, ones), (np.ones(1), np.zeros(1))):
        compared = Compared(compare("a", "b", [Pairs("t", old, new)]))
        page = render_comparison([compared], {})
        assert "<svg" in page
        assert "nan" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL).lower()
    many = [made_comparison(new=f"model {i}", tasks=30) for i in range(3)]
    page = render_comparison(many, {})
    assert len(page.encode()) < 3_000_000
    assert page.count('class="panel"') == 3
    assert "3 models against" in page


def test_texts_of_models_and_people_stay_texts() -> None:
    flips = (
        ShownFlip(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, "x" * 100_000, True),
        ShownFlip("t", "2", "", "", None, "", False),
    )
    comparison = compare(HOSTILE, "b|c", [Pairs(HOSTILE, np.zeros(5), np.ones(5))])
    compared = Compared(comparison, tuple(check_gates([Gate(at_least=0)], comparison)), flips)
    page = render_comparison([compared], {HOSTILE: HOSTILE})
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "\x00" not in page
    assert len(page) < 300_000
    text = comparison_markdown([compared], {HOSTILE: HOSTILE})
    assert "<script>" not in text.replace("\\<", "")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6, 12}


words = st.text("ab <&é\n", max_size=30)


@given(words, words)
def test_marks_add_nothing_and_lose_nothing(text: str, other: str) -> None:
    assert marked(text, other).striptags().split() == marked(text, text).striptags().split()
    assert re.sub(r"</?mark>", "", marked(text, other)) == str(marked(text, text))
    assert "<mark>" not in marked(text, text)


def test_marks_are_where_two_answers_differ() -> None:
    assert marked("the cat sat", "the dog sat") == "the <mark>cat</mark> sat"
    assert marked("olleh", "oleh") == "o<mark>l</mark>leh"
    assert marked("", "a") == ""
    assert marked("a " * 5000, "b") == ("a " * 5000)


def test_every_score_of_the_parallel_view_is_drawn() -> None:
    scores = (Interval(0.2, 0.1, 0.3), NOT_MEASURED, Interval(1.0, 0.9, 1.0))
    figure = parallel_figure(["one", "<two>", "a very long name of a task " * 3], [ModelLine("m", scores)], width=380)
    assert "&lt;two&gt;" in figure
    assert re.findall(r'class="spots" d="([^"]*)"', figure)[0].count("h0") == 2
    assert re.findall(r'class="whisker thin" d="([^"]*)"', figure)[0].count("H") == 2
    assert parallel_figure(["one"], [ModelLine("m", (NOT_MEASURED,))], width=380) == ""
