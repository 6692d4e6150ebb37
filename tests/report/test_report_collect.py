"""A page from study folders: the numbers are the ledger's, what is missing is said, and wrong input is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import made_study
import numpy as np
import pytest

from genepool import measure
from genepool.errors import InputError
from genepool.measure import Interval
from genepool.report import ExtraModel, collect_study, render_report, report_markdown, wording
from genepool.report.flips import FLIPS_SHOWN
from genepool.report.sections.changes import Changes
from genepool.report.sections.cost import Costs
from genepool.report.sections.lineage import Lineage
from genepool.report.sections.recipe import Recipes
from genepool.report.sections.scores import Scores
from genepool.report.sections.search import SearchCurves
from genepool.report.sections.standings import Standings
from genepool.report.study_outcomes import StudyOutcomes
from genepool.tasks import load_tasks


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks, a ledger, a finished CMA-ES study and a finished random search."""
    world = tmp_path_factory.mktemp("world")
    made_study.make_tasks(world / "tasks")
    made_study.make_ledger(world / "ledger.sqlite", world / "tasks")
    made_study.make_study(world, "cma_es")
    made_study.make_study(world, "random_search")
    return world


@pytest.fixture
def world(built: Path, tmp_path: Path) -> Path:
    """A world of one's own, to spoil; its studies are made where it lies."""
    return Path(shutil.copytree(built, tmp_path / "world", ignore=shutil.ignore_patterns("run-*")))


MERGES = (
    ExtraModel("average", made_study.fingerprint("average")),
    ExtraModel("ties 1.0", made_study.fingerprint("ties"), recipe="genepool: 1\nmethod: ties\n", method="ties"),
)


def outcomes(world: Path, name: str, task: str, split: str = "test", limit: int = 70) -> np.ndarray:
    """Scores as the ledger's own file has them, by another way than the page's."""
    import sqlite3

    (found,) = load_tasks(world / "tasks", [task])
    rows = dict(
        sqlite3.connect(world / "ledger.sqlite").execute(
            "SELECT e.key, o.score FROM outcomes o JOIN models m ON m.id = o.model JOIN examples e ON e.id = o.example "
            "WHERE m.fingerprint = ?",
            (made_study.fingerprint(name, split),),
        )
    )
    return np.array([rows[example.key] for example in found.examples(split)[:limit]])


def test_the_matrix_is_the_ledgers(built: Path) -> None:
    data = collect_study(built / "run-cma_es", beside=[built / "run-random_search"], extra_models=MERGES)
    assert [(model.name, model.kind) for model in data[Scores].models] == [
        ("base", "base"),
        ("sort", "parent"),
        ("upper", "parent"),
        ("average", "merge"),
        ("ties 1.0", "merge"),
        ("random search", "random"),
        ("CMA-ES", "winner"),
    ]
    ledger_names = ("base", "sort", "upper", "average", "ties", "random_search", "cma_es")
    for model, name in zip(data[Scores].models, ledger_names, strict=True):
        for task in made_study.TASKS:
            scores = outcomes(built, name, task)
            expected = measure.mean_interval(scores)
            shown = model.scores[task]
            assert tuple(shown) == tuple(expected)
        pair = [outcomes(built, name, task).mean() for task in ("sort", "upper")]
        assert model.means["skills"].mean == pytest.approx(np.mean(pair))
        assert model.means["generic"].mean == model.scores["generic"].mean
    assert [(task.name, task.group) for task in data[Scores].tasks] == [
        ("sort", "skills"),
        ("upper", "skills"),
        ("generic", "generic"),
    ]
    assert data.finished
    assert data.notices == ()


def test_the_standings_are_paired_differences_to_the_right_rivals(built: Path) -> None:
    data = collect_study(built / "run-cma_es", beside=[built / "run-random_search"], extra_models=MERGES)
    skills, generic = data[Standings].standings
    assert (skills.group, generic.group) == ("skills", "generic")
    assert [(rival.role, rival.name) for rival in skills.rivals][1:] == [
        ("best static merge", "ties 1.0"),
        ("equal budget", "random search"),
    ]
    best = max(
        ("sort", "upper"), key=lambda name: sum(outcomes(built, name, task).mean() for task in ("sort", "upper"))
    )
    assert (skills.rivals[0].role, skills.rivals[0].name) == ("best specialist", best)
    for rival, name in zip(skills.rivals[1:], ("ties", "random_search"), strict=True):
        ours = [outcomes(built, "cma_es", task) for task in ("sort", "upper")]
        theirs = [outcomes(built, name, task) for task in ("sort", "upper")]
        expected = measure.macro_paired_bootstrap(ours, theirs)
        assert (rival.ahead.mean, rival.ahead.lo, rival.ahead.hi) == expected[:3]


def test_gains_losses_and_flips_are_those_of_the_examples(built: Path) -> None:
    data = collect_study(built / "run-cma_es", extra_models=MERGES)
    assert [comparison.rival for comparison in data[Changes].comparisons] == ["sort", "upper", "ties 1.0", "base"]
    for comparison, name in zip(data[Changes].comparisons, ("sort", "upper", "ties", "base"), strict=True):
        for change in comparison.changes:
            ours, theirs = outcomes(built, "cma_es", change.task), outcomes(built, name, change.task)
            assert change.gained == int(((ours == 1) & (theirs == 0)).sum())
            assert change.lost == int(((ours == 0) & (theirs == 1)).sum())
            assert change.delta.mean == pytest.approx((change.gained - change.lost) / 70)
        for flip in comparison.flips:
            right = flip.subject_said if flip.gained else flip.rival_said
            wrong = flip.rival_said if flip.gained else flip.subject_said
            assert right == flip.expected
            assert wrong.endswith("does not know")
            assert flip.prompt.startswith(f"<{flip.task}> test ")
    assert 0 < sum(len(comparison.flips) for comparison in data[Changes].comparisons) <= FLIPS_SHOWN


def test_searches_costs_and_references(built: Path) -> None:
    data = collect_study(built / "run-cma_es", beside=[built / "run-random_search"], extra_models=MERGES)
    assert [search.name for search in data[SearchCurves].searches] == ["CMA-ES", "random search"]
    history = [json.loads(line) for line in (built / "run-cma_es" / "history.jsonl").read_text().splitlines()]
    assert [one.fitness for one in data[SearchCurves].searches[0].evaluations] == [line["fitness"] for line in history]
    # The interval is that of the fitness on validation: three quarters of the mean and a quarter of the worst task.
    means = [outcomes(built, "cma_es", task, "valid", 40).mean() for task in made_study.TASKS]
    fitness = data[SearchCurves].searches[0].best
    assert fitness.mean == pytest.approx(0.75 * np.mean(means) + 0.25 * min(means))
    assert fitness.lo < fitness.mean < fitness.hi
    winner, guess = data[SearchCurves].searches[0].finalists
    means = [outcomes(built, "cma_es", task, "valid", 60).mean() for task in made_study.TASKS]
    assert winner.name == "candidate 2 of generation 3"
    assert winner.judged.mean == pytest.approx(0.75 * np.mean(means) + 0.25 * min(means))
    assert winner.judged.has_ends
    assert (guess.searched, guess.judged) == (None, Interval(0.7))
    assert "own guess after 4 generations" in guess.name
    assert [reference.name for reference in data[SearchCurves].references] == ["best static merge"]
    assert data[SearchCurves].references[0].model == "ties 1.0"
    cost = data[Costs].costs[0]
    assert (cost.evaluations, cost.failed, cost.cached, cost.examples) == (24, 1, 1, 2760)
    assert (cost.seconds, cost.cpu_seconds) == (33.5, 11.0)


def test_the_recipe_has_every_gene_with_the_better_candidates_spread(built: Path) -> None:
    data = collect_study(built / "run-cma_es", extra_models=MERGES)
    ours, static = data[Recipes].recipes
    best = json.loads((built / "run-cma_es" / "best.json").read_text())
    assert sorted(gene.value for gene in ours.genes) == sorted(best["genome"].values())
    places = {(gene.parameter, gene.skill, gene.layers, gene.role) for gene in ours.genes}
    assert ("weight", "sort", (0, 1), "attention") in places
    assert ("weight", "upper", (2, 3), None) in places
    assert ("lambda", None, None, None) in places
    history = [json.loads(line) for line in (built / "run-cma_es" / "history.jsonl").read_text().splitlines()]
    better = sorted((line for line in history if line["fitness"] is not None), key=lambda line: -line["fitness"])[:5]
    values = [line["genome"]["lambda"] for line in better]
    gene = next(gene for gene in ours.genes if gene.parameter == "lambda")
    assert gene.spread == (min(values), max(values))
    assert (gene.low, gene.high) == (0.5, 1.5)
    assert ours.spread_of == "the best 5 of 24 candidates"
    assert "method: ties" in ours.text
    assert (static.name, static.text) == ("ties 1.0", MERGES[1].recipe)


def test_lineage_commands_and_words(built: Path) -> None:
    data = collect_study(built / "run-cma_es", beside=[built / "run-random_search"])
    assert [(origin.name, origin.source) for origin in data[Lineage].models][:3] == [
        ("base", "base"),
        ("sort", "full/sort"),
        ("upper", "full/upper"),
    ]
    assert all(len(origin.fingerprint) == 64 for origin in data[Lineage].models)
    assert len(data[Lineage].commands) == 2
    assert dict(data[Lineage].facts)["seed"] == "7"
    assert "CMA-ES tried 24 ways to merge sort and upper" in data.summary
    assert "Random search stands beside it at an equal budget" in data.summary
    assert data.title == "Two skills in one model"
    given = collect_study(built / "run-cma_es", title="T", summary="S", commands=["make demo"])
    assert (given.title, given.summary, given[Lineage].commands) == ("T", "S", ("make demo",))


def test_an_unfinished_study_is_shown_as_far_as_it_got(world: Path) -> None:
    out = made_study.make_study(world, finished=False)
    data = collect_study(out, ledger=world / "ledger.sqlite", extra_models=MERGES)
    assert not data.finished
    (notice,) = data.notices
    assert "12 of 24 evaluations" in notice
    assert "genepool evolve" in notice
    assert len(data[SearchCurves].searches[0].evaluations) == 12
    assert data[Standings].standings == ()
    assert data[Changes].comparisons == ()
    assert [model.name for model in data[Scores].models] == ["base", "sort", "upper", "average", "ties 1.0"]
    assert data[Recipes].recipes[0].name == "CMA-ES, best so far"
    assert data[Recipes].recipes[0].genes
    render_report(data)


def test_a_study_that_has_not_begun_is_a_page_too(world: Path) -> None:
    out = made_study.make_study(world, finished=False)
    (out / "history.jsonl").unlink()
    (out / "study.sqlite").unlink()
    data = collect_study(out, ledger=world / "nothing.sqlite")
    assert "0 of 24 evaluations" in data.notices[0]
    assert (data[Scores].models, data[Recipes].recipes, data[Costs].costs) == ((), (), ())
    render_report(data)
    assert not (world / "nothing.sqlite").exists()


def test_without_the_ledger_the_recorded_means_are_shown(world: Path) -> None:
    out = made_study.make_study(world)
    (world / "ledger.sqlite").unlink()
    data = collect_study(out, extra_models=MERGES)
    assert "does not hold the test outcomes of CMA-ES" in data.notices[0]
    assert not (world / "ledger.sqlite").exists()
    shown = {model.name: model.scores.get("sort") for model in data[Scores].models}
    assert shown["CMA-ES"].mean == made_study.RATES["cma_es"][0]
    assert shown["base"].mean == made_study.RATES["base"][0]
    assert shown["average"] is None
    assert (data[Standings].standings, data[Changes].comparisons) == ((), ())
    render_report(data)


def test_without_the_tasks_the_recorded_means_are_shown(world: Path) -> None:
    out = made_study.make_study(world)
    shutil.rmtree(world / "tasks")
    data = collect_study(out)
    assert "tasks cannot be read" in data.notices[0]
    assert {task.name: task.group for task in data[Scores].tasks} == {
        "sort": "skills",
        "upper": "skills",
        "generic": "generic",
    }
    assert len(data[Scores].models) == 4
    render_report(data)


def test_two_studies_of_one_strategy_have_names_of_their_own(world: Path) -> None:
    first = made_study.make_study(world)
    second = shutil.copytree(first, world / "again")
    data = collect_study(first, beside=[second])
    assert [search.name for search in data[SearchCurves].searches] == ["CMA-ES (run-cma_es)", "CMA-ES (again)"]
    assert data.subject == "CMA-ES (run-cma_es)"


def test_an_extra_model_may_not_take_a_name_that_is_taken(built: Path) -> None:
    with pytest.raises(InputError, match="the same name"):
        collect_study(built / "run-cma_es", extra_models=[ExtraModel("base", "0" * 64)])


def test_the_best_static_merge_can_be_named(built: Path) -> None:
    data = collect_study(built / "run-cma_es", extra_models=MERGES, best_merge="average")
    assert data[Standings].standings[0].rivals[1].name == "average"
    assert "chosen on validation" in data[Standings].note
    with pytest.raises(InputError, match="there is no extra model"):
        collect_study(built / "run-cma_es", extra_models=MERGES, best_merge="tie 1.0")


def test_groups_can_be_given_and_must_be_complete(built: Path) -> None:
    data = collect_study(built / "run-cma_es", groups=dict.fromkeys(made_study.TASKS, "everything"))
    assert data[Scores].groups == ("everything",)
    with pytest.raises(InputError, match="no group"):
        collect_study(built / "run-cma_es", groups={"sort": "skills"})


# -- the command --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_one_page_and_says_where(world: Path, cli: Callable[..., Any]) -> None:
    out = made_study.make_study(world)
    answer = cli("report", out)
    assert (answer.code, answer.out.strip()) == (0, str(out / "report.html"))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page == render_report(collect_study(out))
    assert len(page.encode()) < 1_000_000
    assert cli("report", out).code == 0, "a study's own page is renewed"


def test_the_command_answers_in_json(world: Path, cli: Callable[..., Any]) -> None:
    out = made_study.make_study(world)
    answer = cli("report", out, "--out", world / "page.html", "--json", "--quiet")
    told = json.loads(answer.out)
    assert (answer.code, told["schema"], told["finished"]) == (0, 1, True)
    assert told["bytes"] == (world / "page.html").stat().st_size
    assert told["models"] == ["base", "sort", "upper", "CMA-ES"]
    assert told["standings"][0]["against"][0]["role"] == "best specialist"
    assert answer.err == ""


def test_the_command_writes_markdown_and_refuses_other_endings(world: Path, cli: Callable[..., Any]) -> None:
    out = made_study.make_study(world)
    answer = cli("report", out, "--out", world / "results.md")
    assert (answer.code, answer.out.strip()) == (0, str(world / "results.md"))
    assert (world / "results.md").read_text(encoding="utf-8") == report_markdown(collect_study(out))
    answer = cli("report", out, "--out", world / "results.pdf")
    assert answer.code == 2
    assert "results.html" in answer.err
    assert not (world / "results.pdf").exists()


def test_an_existing_page_is_only_replaced_when_asked(world: Path, cli: Callable[..., Any]) -> None:
    out, page = made_study.make_study(world), world / "page.html"
    page.write_text("mine")
    answer = cli("report", out, "--out", page)
    assert (answer.code, page.read_text()) == (2, "mine")
    assert "--overwrite" in answer.err
    assert cli("report", out, "--out", page, "--overwrite").code == 0
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_the_command_shows_studies_beside_and_reads_the_ledger_that_is_named(
    world: Path, cli: Callable[..., Any]
) -> None:
    out, random = made_study.make_study(world), made_study.make_study(world, "random_search")
    told = json.loads(cli("report", out, "--beside", random, "--json").out)
    assert told["models"] == ["base", "sort", "upper", "random search", "CMA-ES"]
    assert (out / "report.html").read_text() == render_report(collect_study(out, beside=[random]))
    moved = (world / "ledger.sqlite").rename(world / "moved.sqlite")
    lost, found = cli("report", out), cli("report", out, "--ledger", moved, "--json")
    assert "Name the right one with --ledger" in lost.err
    assert (found.code, found.err) == (0, "")
    assert json.loads(found.out)["standings"]


def test_an_unfinished_study_is_said_to_be(world: Path, cli: Callable[..., Any]) -> None:
    out = made_study.make_study(world, finished=False)
    answer = cli("report", out)
    assert answer.code == 0
    assert "unfinished" in answer.err
    assert "unfinished" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda out: shutil.rmtree(out), "no such folder"),
        (lambda out: (out / "study.yaml").unlink(), "is not a study folder"),
        (lambda out: (out / "study.yaml").write_text("a: ["), "study.yaml"),
        (lambda out: (out / "best.json").write_text("{"), "best.json: not the record"),
        (lambda out: (out / "history.jsonl").write_text('{"fitness": 1}\n'), "history.jsonl: line 1"),
        (lambda out: (out / "history.jsonl").write_text("\n[]\n"), "history.jsonl: line 1"),
        (lambda out: (out.parent / "ledger.sqlite").write_text("not a database" * 99), "ledger"),
        (lambda out: (out / "report.html").mkdir(), "is a folder"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    world: Path, cli: Callable[..., Any], spoil: Callable[[Path], object], complaint: str
) -> None:
    out = made_study.make_study(world)
    spoil(out)
    before = sorted(world.rglob("*"))
    answer = cli("report", out)
    assert answer.code == 2
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert complaint in last
    assert [path for path in sorted(world.rglob("*")) if path not in before and "sqlite" not in path.name] == []


@pytest.mark.parametrize(("count", "said"), [(1, "One skill in one model"), (13, "13 skills in one model")])
def test_the_heading_counts_the_skills(count: int, said: str) -> None:
    assert wording.title(cast("StudyOutcomes", SimpleNamespace(skills=["one"] * count))) == said
