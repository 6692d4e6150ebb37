"""The cross matrix and the flips of a table worked out by hand."""

from __future__ import annotations

import pytest

from genepool.measure import CrossMatrix, change, changes, mean_difference, wilson
from genepool.tasks import Example, Outcome, OutcomeTable
from genepool.tasks.table import TaskOutcomes

EXAMPLES = {
    "add": [Example(str(i), f"{i}+1=", (str(i + 1),)) for i in range(4)],
    "copy": [Example(str(i), f"{i}:", (str(i),)) for i in range(2)],
}
SCORES = {
    ("old", "add"): [1, 1, 0, 0],
    ("new", "add"): [1, 0, 1, 1],
    ("old", "copy"): [0, 0],
    ("new", "copy"): [1, 0],
}


@pytest.fixture
def table() -> OutcomeTable:
    cells = {
        place: TaskOutcomes(tuple(Outcome(float(s), f"{place[0]} says {i}") for i, s in enumerate(row)), 0)
        for place, row in SCORES.items()
    }
    return OutcomeTable(cells, EXAMPLES, {"old": "f1", "new": "f2"}, "test")


def test_gains_and_losses_name_the_examples(table: OutcomeTable) -> None:
    moved = change(table, "old", "new", "add")
    assert [flip.example.id for flip in moved.gained] == ["2", "3"]
    assert [flip.example.id for flip in moved.lost] == ["1"]
    assert (moved.lost[0].old_output, moved.lost[0].new_output) == ("old says 1", "new says 1")
    assert moved.difference.difference == 0.25
    # The share of negative flips: right before and wrong now.
    assert len(moved.lost) / len(table.examples("add")) == 0.25


def test_turned_around_gains_are_losses(table: OutcomeTable) -> None:
    for there, back in zip(changes(table, "old", "new"), changes(table, "new", "old"), strict=True):
        assert [flip.example for flip in there.gained] == [flip.example for flip in back.lost]
        assert there.difference.difference == -back.difference.difference
        assert there.to_dict()["gained"] == back.to_dict()["lost"]


def test_gains_less_losses_is_the_difference_of_right_answers(table: OutcomeTable) -> None:
    for moved in changes(table, "old", "new"):
        n = len(table.examples(moved.task))
        assert (len(moved.gained) - len(moved.lost)) / n == pytest.approx(moved.difference.difference)


def test_the_matrix_has_every_cell_and_the_mean_of_tasks(table: OutcomeTable) -> None:
    matrix = CrossMatrix.of(table)
    assert matrix.models == ("old", "new")
    assert matrix.tasks == ("add", "copy")
    assert matrix.counts == {"add": 4, "copy": 2}
    assert matrix.cells["new", "add"] == wilson(3, 4)
    assert matrix.means["old"].mean == pytest.approx((0.5 + 0) / 2)
    assert matrix.means["new"].mean == pytest.approx((0.75 + 0.5) / 2)
    assert matrix.means["new"].lo <= matrix.means["new"].mean <= matrix.means["new"].hi


def test_the_mean_difference_weighs_tasks_alike(table: OutcomeTable) -> None:
    assert mean_difference(table, "new", "old").difference == pytest.approx((0.25 + 0.5) / 2)
    assert mean_difference(table, "new", "old", ["copy"]).difference == pytest.approx(0.5)
