"""The curves of a training: what their axes say."""

from __future__ import annotations

import re

import pytest

from genepool.report.training_figure import training_figure


@pytest.mark.parametrize("last", [1, 2, 3, 4, 7, 40, 12_000])
def test_steps_are_whole_and_each_is_said_once(last: int) -> None:
    steps = [(step, 1.0) for step in range(1, last + 1)]
    drawn = str(training_figure(steps, [(0, 1.0), (last, 0.5)], last, label="loss", width=700, height=300))
    said = re.findall(r'class="tick middle"[^>]*>([^<]*)<', drawn)
    assert said
    assert len(set(said)) == len(said)
    assert all(re.fullmatch(r"[\d,]+", one) for one in said)
