"""The page of a real, small study on the tiny testbed: what evolve and the ledger write is what the page reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genepool.report import ExtraModel, collect_study, render_report, report_on
from genepool.report.sections.changes import Changes
from genepool.report.sections.recipe import Recipes
from genepool.report.sections.scores import Scores
from genepool.report.sections.search import SearchCurves

pytestmark = pytest.mark.slow
LIMIT = 32


def test_a_real_study_is_shown_as_it_was(tiny_testbed: Any, tmp_path: Path) -> None:
    from genepool.evolution import Study, run_study
    from genepool.merging import parse_recipe, plan_merge
    from genepool.tasks import Ledger, evaluate, load_tasks

    bed = tiny_testbed
    skills = list(bed.full)
    study = Study(
        study=1,
        base=str(bed.base),
        skills=[{"name": skill, "model": str(path)} for skill, path in bed.full.items()],
        method="task_arithmetic",
        search={"weight": {"low": 0.0, "high": 1.0, "per": {"layer_groups": 2, "roles": ["attention"]}}},
        tasks={"dir": str(bed.tasks), "valid": LIMIT, "test": LIMIT},
        strategy={"name": "random_search"},
        budget={"evaluations": 12},
    )
    result = run_study(study, tmp_path / "run", ledger=tmp_path / "ledger.sqlite")
    average = {"genepool": 1, "method": "linear", "models": [str(path) for path in bed.full.values()]}
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        merged = plan_merge(parse_recipe(average)).weights()
        for split in ("valid", "test"):
            asked = evaluate(
                [merged], load_tasks(bed.tasks), split=split, ledger=ledger, limit=LIMIT, names=["average"]
            )
    extra = ExtraModel("average", asked.fingerprints["average"], method="linear")

    data = collect_study(tmp_path / "run", extra_models=[extra])
    assert data.notices == ()
    assert [model.name for model in data[Scores].models] == ["base", *skills, "average", "random search"]
    recorded = {row["name"]: row["test"] for row in result.best["models"]}
    for model in data[Scores].models:
        for task, score in recorded.get("winner" if model.name == data.subject else model.name, {}).items():
            shown = model.scores[task]
            assert tuple(shown) == tuple(score[key] for key in ("mean", "lo", "hi"))
    assert [task.name for task in data[Scores].tasks] == [*skills, "generic"]
    # What the search saw in memory is what the ledger says of its best candidate.
    assert data[SearchCurves].searches[0].best is not None
    fitness = [evaluation.fitness for evaluation in data[SearchCurves].searches[0].evaluations]
    assert data[SearchCurves].searches[0].best.mean == pytest.approx(
        max(value for value in fitness if value is not None)
    )
    judged = [line["fitness"] for line in result.best["finalists"]]
    assert [finalist.judged.mean for finalist in data[SearchCurves].searches[0].finalists] == pytest.approx(judged)
    assert data[SearchCurves].searches[0].finalists[0].judged.has_ends
    assert len(data[SearchCurves].searches[0].evaluations) == 12
    assert {gene.value for gene in data[Recipes].recipes[0].genes} == set(result.genome.values())
    assert {gene.role for gene in data[Recipes].recipes[0].genes} == {"attention", None}
    assert len(data[SearchCurves].references) == 1
    flips = [flip for comparison in data[Changes].comparisons for flip in comparison.flips]
    assert flips
    assert all(flip.subject_said is not None and flip.rival_said is not None for flip in flips)
    assert len(render_report(data).encode()) < 1_000_000

    alone = report_on(asked, {"average": "merge"}, title="One merge")
    assert alone[Scores].models[0].scores == data[Scores].models[-2].scores
    assert "One merge" in render_report(alone)
