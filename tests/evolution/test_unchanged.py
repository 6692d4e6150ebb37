"""Size as an objective: the share of the base that a merge leaves as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evolve_world
import numpy as np
import pytest
import torch
import yaml

from genepool.evolution import run_study
from genepool.evolution.collection import read_collection, write_candidate
from genepool.evolution.evaluator import share_unchanged
from genepool.evolution.strategies.base import Evidence
from genepool.report import collect_study
from genepool.report.sections.collection import Collection
from genepool.weights import TensorWeights, open_weights

SEARCH = {"weight": {"low": 0.0, "high": 1.0}, "density": {"low": 0.1, "high": 1.0}}


def sized_study(world: Path, name: str, strategy: dict[str, Any], **changes: Any) -> Path:
    data = {k: v for k, v in evolve_world.STUDY.items() if k != "parameters"}
    study = {**data, "method": "ties", "search": SEARCH, "strategy": strategy, "budget": {"evaluations": 18}, **changes}
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_the_share_is_counted_entry_by_entry() -> None:
    base = TensorWeights({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([[0.5]], dtype=torch.bfloat16)}, "base")
    other = TensorWeights({"a": torch.tensor([1.0, 2.5, 3.0]), "b": torch.tensor([[0.5]])}, "other")
    assert share_unchanged(other, base) == 3 / 4
    assert share_unchanged(base, base) == 1


def test_columns_are_tasks_or_the_share() -> None:
    means = np.array([[0.1, 0.2], [0.3, 0.4]])
    told = Evidence(("add", "say"), means, means, np.array([0.5, 0.6]))
    assert told.columns(["say", "unchanged"]).tolist() == [[0.2, 0.5], [0.4, 0.6]]
    with pytest.raises(ValueError, match="no task 'sub' among add, say"):
        told.columns(["sub"])
    with pytest.raises(ValueError, match="no task 'unchanged'"):
        Evidence(("add", "say"), means, means).columns(["unchanged"])
    named = Evidence(("unchanged",), means[:, :1], means, np.array([0.5, 0.6]))
    assert named.columns(["unchanged"]).ravel().tolist() == [0.1, 0.3], "a task of that name comes first"


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        pytest.param(
            {"name": "nsga2", "options": {"population": 6, "objectives": ["pick", "unchanged"]}},
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"name": "map_elites", "options": {"batch": 6, "behaviours": ["pick", "unchanged"]}},
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"name": "nsga2", "options": {"population": 6, "objectives": ["pick", "unchanged"]}},
            {"probe": 4},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_merge_is_as_small_as_the_study_says(
    world: Path, tmp_path: Path, strategy: dict[str, Any], changes: dict[str, Any]
) -> None:
    study = sized_study(world, f"{strategy['name']}-{'-'.join(changes)}", strategy, **changes)
    ledger = tmp_path / "ledger.sqlite"
    run_study(study, tmp_path / "out", ledger=ledger)
    history = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    shares = {f"{line['generation']}.{line['index']}": line["unchanged"] for line in history}
    assert len(shares) == 18
    assert len(set(shares.values())) > 6
    base = open_weights(world / "base")
    for name in list(shares)[:4]:
        write_candidate(tmp_path / "out", name, tmp_path / name)
        assert share_unchanged(open_weights(tmp_path / name), base) == shares[name]
    members = read_collection(tmp_path / "out")
    assert all(member.scores["unchanged"] == shares[member.name] for member in members)
    (shown,) = collect_study(tmp_path / "out", ledger=ledger)[Collection].searches
    assert "unchanged" in shown.scores
    # Gone on with, it is the same.
    run_study(study, tmp_path / "steps", evaluations=6, ledger=tmp_path / "steps.sqlite")
    run_study(study, tmp_path / "steps", ledger=tmp_path / "steps.sqlite")
    assert read_collection(tmp_path / "steps") == members


@pytest.mark.slow
def test_other_strategies_do_not_count(world: Path, tmp_path: Path) -> None:
    study = sized_study(world, "plain", {"name": "nsga2", "options": {"population": 6}}, budget={"evaluations": 6})
    run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    assert '"unchanged"' not in (tmp_path / "out" / "history.jsonl").read_text()
