"""Majority votes: worked examples, properties, and a study whose finalists vote."""

from __future__ import annotations

from pathlib import Path

import evolve_world
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_bred_runs import bred_study

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.study import Study
from genepool.evolution.voting import majority
from genepool.report import collect_study, render_report
from genepool.tasks import Ledger, evaluate, load_tasks
from genepool.weights import open_weights


def test_the_answer_most_give_counts_and_of_equals_the_better_members() -> None:
    answers = [["a", "x", "p"], ["b ", "y", "q"], [" b", "z", "q"], ["a", "w", "q"]]
    scores = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert majority(answers, scores).tolist() == [1.0, 0.0, 0.0]


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=5, max_size=5), min_size=3, max_size=7))
def test_between_two_answers_the_vote_is_right_where_most_members_are(members: list[list[str]]) -> None:
    scores = [[float(answer == "a") for answer in member] for member in members]
    shares = np.mean(scores, axis=0)
    voted = majority(members, scores)
    assert (voted[shares > 0.5] == 1).all()
    assert (voted[shares < 0.5] == 0).all()


@pytest.mark.slow
def test_finalists_of_a_study_vote(tmp_path: Path, cli: object) -> None:
    world = evolve_world.build_world(tmp_path / "world")
    study = bred_study(world, "vote", {"name": "genome_plus", "options": {"population": 4}}, ensemble=3)
    ledger = tmp_path / "ledger.sqlite"
    result = run_study(study, tmp_path / "run", ledger=ledger)
    vote = result.best["ensemble"]
    assert vote["members"] == [f"{f['generation']}.{f['index']}" for f in result.best["finalists"][:3]]
    # "say" looks within the answer, where right ones need not be alike.
    assert set(vote["test"]) == {"pick"}
    # The winner is the first member, and what it answered is on record: the vote is right only where someone was.
    with Ledger(ledger) as book:
        table = evaluate([open_weights(result.winner)], load_tasks(world / "tasks"), split="test", ledger=book)
    assert all(0 <= score["lo"] <= score["mean"] <= score["hi"] <= 1 for score in vote["test"].values())
    assert vote["test"]["pick"]["n"] == len(table.examples("pick"))
    assert "answering together, by majority vote" in render_report(collect_study(tmp_path / "run"))


def test_a_vote_on_answers_that_need_not_be_alike_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    world = evolve_world.build_world(tmp_path / "world")
    study = bred_study(world, "vote", "genome", ensemble=3, tasks={"dir": "tasks", "names": ["say"]})
    with pytest.raises(InputError, match="ensemble: every task accepts many wordings"):
        run_study(study, tmp_path / "run", ledger=tmp_path / "ledger.sqlite")
    assert not (tmp_path / "run").exists()


def test_too_few_voters_are_refused() -> None:
    common = {"base": "b", "skills": ["x", "y"], "tasks": "t", "strategy": "genome", "budget": {"evaluations": 9}}
    with pytest.raises(ValueError, match="a vote needs 3 members"):
        Study(**common, ensemble=2)
    with pytest.raises(ValueError, match="ensemble must be at most finalists, got 7 and 5"):
        Study(**common, ensemble=7)
