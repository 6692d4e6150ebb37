"""Made-up report data, realistic in shape and size: four skills, two generic tasks, eleven models, two searches."""

from __future__ import annotations

import numpy as np
import pytest

from genepool.measure import Interval
from genepool.report import Report
from genepool.report.flips import ShownFlip
from genepool.report.recipe_figure import GeneValue, RecipePicture
from genepool.report.scatter_figure import Scatter, ScatterPoint
from genepool.report.search_figure import Evaluation, FinalistPoint, ReferenceLine, SearchRun
from genepool.report.sections.changes import Changes, RivalComparison, TaskChange
from genepool.report.sections.collection import Atlas, Collection, CollectionMember, SearchCollection
from genepool.report.sections.cost import Cost, Costs
from genepool.report.sections.lineage import Lineage
from genepool.report.sections.recipe import Recipes
from genepool.report.sections.scores import ModelRow, ScoredTask, Scores
from genepool.report.sections.search import SearchCurves
from genepool.report.sections.standings import Rival, Standing, Standings
from genepool.report.sections.tradeoffs import TradeOffs
from genepool.report.study_outcomes import Origin

SKILLS = ("reverse", "sort", "upper", "caesar")
GENERIC = ("copy", "count")
ITEMS = 1024
#: Scores of the testbed's first trials (skills then generic tasks).
SCORES = {
    ("base", "base"): (0.09, 0.41, 0.32, 0.04, 0.97, 0.95),
    ("reverse", "parent"): (1.00, 0.32, 0.02, 0.02, 0.94, 0.92),
    ("sort", "parent"): (0.05, 1.00, 0.36, 0.02, 0.93, 0.89),
    ("upper", "parent"): (0.07, 0.25, 1.00, 0.01, 0.97, 0.96),
    ("caesar", "parent"): (0.06, 0.33, 0.39, 1.00, 0.95, 0.93),
    ("average", "merge"): (0.71, 0.86, 0.83, 0.72, 0.97, 0.95),
    ("task_arithmetic 0.5", "merge"): (0.92, 0.97, 0.95, 0.93, 0.96, 0.94),
    ("task_arithmetic 1.0", "merge"): (0.86, 0.92, 0.88, 0.91, 0.78, 0.76),
    ("ties", "merge"): (0.89, 0.95, 0.91, 0.90, 0.97, 0.95),
    ("random search", "random"): (0.945, 0.975, 0.962, 0.951, 0.955, 0.941),
    ("CMA-ES", "winner"): (0.971, 0.988, 0.979, 0.968, 0.962, 0.948),
}


def wilson(mean: float, n: int) -> Interval:
    centre = (mean + 1.92 / n) / (1 + 3.84 / n)
    half = 1.96 / (1 + 3.84 / n) * (mean * (1 - mean) / n + 0.96 / n**2) ** 0.5
    return Interval(mean, max(centre - half, 0.0), min(centre + half, 1.0))


def made_up_models() -> tuple[ModelRow, ...]:
    rows = []
    for (name, kind), scores in SCORES.items():
        cells = {task: wilson(score, ITEMS) for task, score in zip(SKILLS + GENERIC, scores, strict=True)}
        means = {
            "skills": wilson(float(np.mean(scores[:4])), 4 * ITEMS),
            "generic": wilson(float(np.mean(scores[4:])), 2 * ITEMS),
        }
        rows.append(ModelRow(name, kind, cells, means, "chosen on validation" if name == "ties" else ""))
    return tuple(rows)


def made_up_search(name: str, seed: int, gain: float) -> SearchRun:
    rng = np.random.default_rng(seed)
    evaluations = []
    for generation in range(20):
        level = 0.95 - gain * np.exp(-generation / 5) if gain else 0.66
        spread = 0.09 * np.exp(-generation / 8) + 0.006 if gain else 0.12
        found = np.clip(rng.normal(level, spread, 10), 0, 0.965)
        evaluations += [Evaluation(float(fitness), generation) for fitness in found]
    evaluations[17] = Evaluation(None, 1)
    best = max(e.fitness for e in evaluations if e.fitness is not None)
    finalists = (
        FinalistPoint("candidate 3 of generation 17", best - 0.01, wilson(best - 0.02, 5000)),
        FinalistPoint("the strategy's own guess after 20 generations", None, Interval(best - 0.021)),
    )
    return SearchRun(name, tuple(evaluations), wilson(best, 1200), finalists)


def made_up_scatters(models: tuple[ModelRow, ...]) -> tuple[Scatter, Scatter]:
    """Candidates that trade one task for another, each from the one before it, and the models on test."""
    rng = np.random.default_rng(4)
    objectives = ("fitness", "worst task", *SKILLS, *GENERIC)

    def scores(tasks: np.ndarray, n: int) -> tuple[Interval, ...]:
        return tuple(wilson(float(value), n) for value in (tasks.mean(), tasks.min(), *tasks))

    points = []
    for search in ("CMA-ES", "random search"):
        for i in range(60):
            trade = rng.uniform(-0.2, 0.2)
            level = 0.7 + (0.003 * i if search == "CMA-ES" else 0)
            tasks = np.clip(level + np.linspace(-trade, trade, 6) - trade**2 + rng.normal(0, 0.02, 6), 0, 1)
            name = f"candidate {i % 10 + 1} of generation {i // 10}"
            parents = (len(points) - 10,) if search == "CMA-ES" and i >= 10 else ()
            points.append(ScatterPoint(name, search, None, scores(tasks, 300), parents, won=i == 55))
    made_of = tuple(i for i, model in enumerate(models) if model.kind in ("base", "parent"))
    tested = []
    for model in models:
        searched = model.kind in ("random", "winner")
        tasks = np.array([model.scores[task].mean for task in SKILLS + GENERIC])
        tested.append(
            ScatterPoint(
                model.name,
                model.name if searched else "",
                None if searched else model.kind,
                scores(tasks, ITEMS),
                made_of if searched else (),
                searched,
            )
        )
    return (
        Scatter("validation", objectives, tuple(points), candidates=200),
        Scatter("test", objectives, tuple(tested)),
    )


def made_up_recipe() -> RecipePicture:
    rng = np.random.default_rng(3)
    genes = []
    for skill in SKILLS:
        for layers in ((0, 1), (2, 3)):
            for role in ("attention", "mlp", None):
                value = float(np.clip(rng.normal(0.55, 0.2), 0, 1.2))
                half = float(rng.uniform(0.02, 0.2))
                spread = (max(value - half, 0), min(value + half, 1.2))
                genes.append(GeneValue("weight", skill, layers, role, value, 0.0, 1.2, spread))
        genes.append(GeneValue("density", skill, None, None, float(rng.uniform(0.3, 0.9)), 0.1, 1.0, (0.3, 0.9)))
    genes.append(GeneValue("lambda", None, None, None, 0.93, 0.5, 1.5, (0.85, 1.1)))
    text = "genepool: 1\nmethod: ties\nbase: testbed/base\nmodels:\n" + "".join(
        f"- model: testbed/full/{skill}\n  parameters:\n    weight: {0.4 + 0.1 * i:.2f}\n"
        for i, skill in enumerate(SKILLS)
    )
    return RecipePicture("CMA-ES", "ties", tuple(genes), text, "the best tenth, 20 candidates")


def made_up_comparison(rival: str, kind: str, models: tuple[ModelRow, ...]) -> RivalComparison:
    by_name = {model.name: model for model in models}
    changes, flips = [], []
    for task in SKILLS + GENERIC:
        delta = by_name["CMA-ES"].scores[task].mean - by_name[rival].scores[task].mean
        half = 1.96 * (abs(delta) * (1 - abs(delta)) / ITEMS + 1e-5) ** 0.5
        lost = 4 + int(max(-delta, 0) * ITEMS)
        gained = int(delta * ITEMS) + lost
        group = "skills" if task in SKILLS else "generic"
        changes.append(TaskChange(task, group, Interval(delta, delta - half, delta + half), gained, lost, ITEMS))
        for i in range(3):
            word = "umbrella"[: 4 + i]
            right, wrong = word[::-1], word[::-1][:-1] + "x"
            flips.append(ShownFlip(task, f"{task}-test-{i:04d}", f"<{task}> {word} = ", right, wrong, right, True))
        flips.append(ShownFlip(task, f"{task}-test-0100", f"<{task}> pear = ", "raep", "raep", "", False))
    return RivalComparison("CMA-ES", rival, kind, tuple(changes), tuple(flips))


def made_up_collections() -> tuple[SearchCollection, ...]:
    """Two archives of 40 elites each, and a front of three."""
    drawn = np.random.default_rng(9)
    scores = ("sort", "reverse", "upper", "worth")
    elites = tuple(
        CollectionMember(f"{i}.{atlas}", scores[atlas], (*(round(float(x), 3) for x in drawn.random(3)), None), atlas)
        for atlas in (0, 1)
        for i in range(40)
    )
    maps = (Atlas("sort", 0, 1, 2), Atlas("reverse", 1, 0, 2))
    front = tuple(CollectionMember(f"3.{i}", "front" if i else "knee", (0.5 + i / 10, 0.9 - i / 10)) for i in range(3))
    return (
        SearchCollection("CycleQD", scores, elites, maps, 5, "genepool collection run --write"),
        SearchCollection("NSGA-II", ("sort", "upper"), front, command="genepool collection other --write"),
    )


def made_up_report() -> Report:
    models = made_up_models()
    by_name = {model.name: model for model in models}
    standings = []
    for group in ("skills", "generic"):
        mine = by_name["CMA-ES"].means[group]
        rivals = []
        for role, name in (
            ("best specialist", "sort" if group == "skills" else "upper"),
            ("best static merge", "task_arithmetic 0.5" if group == "skills" else "ties"),
            ("random search", "random search"),
        ):
            other = by_name[name].means[group]
            delta = mine.mean - other.mean
            rivals.append(Rival(role, name, other, Interval(delta, delta - 0.006, delta + 0.006)))
        standings.append(Standing(group, mine, tuple(rivals)))
    return Report(
        title="Four specialists, one model",
        headline="The winner of CMA-ES answers 4,001 of 4,096 test questions on skills, 112 more than the best static "
        "merge (95% interval 88 to 137); of the base’s 1,966 generic answers it lost 21, and it gained 3 others.",
        summary="CMA-ES searched 200 ways to merge reverse, sort, upper and caesar with TIES on 300 validation "
        "examples per task; the best of them was tested once on 1,024 examples per task.",
        subject="CMA-ES",
        sections=(
            Standings(tuple(standings)),
            Scores(
                tuple(
                    [ScoredTask(name, "skills", ITEMS) for name in SKILLS]
                    + [ScoredTask(name, "generic", ITEMS) for name in GENERIC]
                ),
                models,
            ),
            SearchCurves(
                (made_up_search("CMA-ES", 1, 0.35), made_up_search("random search", 2, 0.0)),
                (ReferenceLine("best static merge", wilson(0.925, 1200)),),
            ),
            TradeOffs(made_up_scatters(models)),
            Collection(made_up_collections()),
            Recipes(
                (
                    made_up_recipe(),
                    RecipePicture(
                        "task_arithmetic 0.5", "task_arithmetic", text="genepool: 1\nmethod: task_arithmetic\n"
                    ),
                )
            ),
            Changes(
                tuple(
                    made_up_comparison(rival, kind, models)
                    for rival, kind in (
                        ("reverse", "parent"),
                        ("sort", "parent"),
                        ("upper", "parent"),
                        ("caesar", "parent"),
                        ("task_arithmetic 0.5", "merge"),
                        ("base", "base"),
                    )
                )
            ),
            Costs(
                (
                    Cost("CMA-ES", 200, 1, 0, 200 * 1200, 201.4, 188.0),
                    Cost("random search", 200, 0, 12, 188 * 1200, 190.0, 181.2),
                )
            ),
            Lineage(
                tuple(
                    Origin(
                        name, kind, f"testbed/{name}" if kind == "base" else f"testbed/full/{name}", f"{i:02d}9f3c" * 10
                    )
                    for i, (name, kind) in enumerate(SCORES)
                    if kind in ("base", "parent", "winner")
                ),
                ("genepool testbed build testbed --seed 0", "genepool evolve study.yaml --out study"),
                (("seed", "0"), ("tasks", "testbed/tasks"), ("ledger", "genepool.sqlite"), ("method", "ties")),
            ),
        ),
    )


@pytest.fixture(scope="session")
def report_data() -> Report:
    """A page with every section."""
    return made_up_report()
