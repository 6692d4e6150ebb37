"""What two models on record answered: the same as comparing row by row, whatever the scores and however asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Ledger, Outcome
from genepool.tasks.recorded_pairs import recorded_flips, recorded_pairs, recorded_tasks

scores = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
answers = st.dictionaries(
    st.integers(0, 12), st.tuples(scores, st.none() | st.sampled_from(["", "a", "b"])), max_size=10
)


def record(ledger: Ledger, model: str, rows: dict[int, tuple[float, str | None]], task: str = "t") -> None:
    made = [(f"key {i}", f"example {i}", Outcome(score, output)) for i, (score, output) in rows.items()]
    ledger.record(f"fingerprint of {model}", model, task, f"asking {task}", made)


@pytest.mark.slow
@settings(max_examples=60)
@given(answers, answers)
def test_pairs_are_those_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory,
    old: dict[int, tuple[float, str | None]],
    new: dict[int, tuple[float, str | None]],
) -> None:
    both = sorted(old.keys() & new.keys())
    with Ledger(tmp_path_factory.mktemp("l") / "l.sqlite") as ledger:
        record(ledger, "a", old)
        record(ledger, "b", new)
        a, b = ledger.model("a"), ledger.model("b")
        if not old or not new:
            with pytest.raises(InputError, match="no task on record that both were asked"):
                recorded_tasks(ledger, a, b)
            return
        tasks = recorded_tasks(ledger, a, b)
        (found,) = recorded_pairs(ledger, a, b, tasks)
        flips = recorded_flips(ledger, a, b, tasks[0], 100)
    assert (found.task, found.only_old, found.only_new) == ("t", len(old) - len(both), len(new) - len(both))
    known = all(rows[i][1] is not None for i in both for rows in (old, new))
    if known:
        assert found.other_answer is not None
        expected = Counter((old[i][0], new[i][0], old[i][1] != new[i][1]) for i in both)
        rows = zip(found.old.tolist(), found.new.tolist(), found.other_answer.tolist(), strict=True)
    else:
        assert found.other_answer is None
        expected = Counter((old[i][0], new[i][0]) for i in both)
        rows = zip(found.old.tolist(), found.new.tolist(), strict=True)
    assert Counter(rows) == expected
    assert found.old.dtype == np.float64
    solved = {i: (old[i][0] > 0.5, new[i][0] > 0.5) for i in both}
    assert {(flip.example, flip.gained) for flip in flips} == {
        (f"example {i}", now) for i, (was, now) in solved.items() if was != now
    }


def test_a_task_asked_in_two_ways_is_two_and_names_are_checked(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for model in ("a", "b"):
            record(ledger, model, {1: (1.0, "x")})
            ledger.record(f"fingerprint of {model}", model, "t", "otherwise", [("key 1", "1", Outcome(0.0))])
        record(ledger, "a", {1: (1.0, "x")}, task="alone")
        a, b = ledger.model("a"), ledger.model("fingerprint of b")
        assert [task.name for task in recorded_tasks(ledger, a, b)] == ["t (asking t)", "t (otherwis)"]
        with pytest.raises(InputError, match="'alone' is not on record for both"):
            recorded_tasks(ledger, a, b, ["alone"])
        with pytest.raises(InputError, match="no model 'c' on record"):
            ledger.model("c")
        ledger.record("another", "a", "t", "otherwise", [("key 1", "1", Outcome(0.0))])
        with pytest.raises(InputError, match="2 models on record are called 'a'"):
            ledger.model("a")
        assert ledger.model("anothe").fingerprint == "another"
