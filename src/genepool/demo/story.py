"""The demo, start to finish: testbed, specialists, static merges, two searches of equal budget, one page.

Everything is chosen on validation examples; the test examples are asked once, at the end. Run again, it goes on
where it was stopped: models are cached by content, outcomes are in the ledger, studies resume.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from genepool import progress
from genepool.demo.search import GENERIC, can_be_searched, search_from
from genepool.demo.static import StaticMerge, adapters, static_merges
from genepool.evolution import StudyResult, run_study
from genepool.report import ExtraModel, Report, collect_study, write_report
from genepool.tasks import Ledger, OutcomeTable, Task, evaluate, load_tasks
from genepool.testbed import Testbed, build
from genepool.weights import Weights

STRATEGIES = {"cma_es": "evolved", "random_search": "random"}
Size = Literal["short", "tiny", "full"]


@dataclass(frozen=True)
class _Story:
    """How long a story is.

    Attributes:
        tiny: whether the models are the testbed's tiny ones.
        skills: what they are taught; the testbed's usual four when None.
        evaluations: budget of each search.
        valid: validation examples of each task that score a candidate.
        per: what has a weight of its own beside each skill.
        sigma: first step of the search, in widths of its range: it begins at a good static merge, so it takes smaller
            steps than the papers' 1/6. Chosen on validation, seed 0: in the short story .976 against .973 for .08.
    """

    tiny: bool
    skills: tuple[str, ...] | None
    evaluations: int
    valid: int
    per: Mapping[str, Any]
    sigma: float


_BY_ROLE = {"layer_groups": 2, "roles": ["attention", "mlp"]}
STORIES: dict[Size, _Story] = {
    # Two ways to move letters and three to replace them: one weight for all lets them spoil each other.
    "short": _Story(True, ("reverse", "swap", "upper", "caesar", "atbash"), 300, 64, _BY_ROLE, 0.12),
    "tiny": _Story(True, None, 60, 64, _BY_ROLE, 0.12),
    "full": _Story(False, None, 300, 128, {"layer_groups": 4}, 0.08),
}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        table: the test outcomes of every model shown.
        skills: the skill tasks; the rest is `generic`.
        best_static: name of the static merge chosen on validation.
        report: the page.
        headline: what was gained and lost, in a sentence.
        minutes: wall time of this run.
    """

    table: OutcomeTable
    skills: tuple[str, ...]
    best_static: str
    report: Path
    headline: str
    minutes: float

    @property
    def evolved(self) -> str:
        """The evolved model's name in the table."""
        return STRATEGIES["cma_es"]

    @property
    def random(self) -> str:
        """The name of random search's best model."""
        return STRATEGIES["random_search"]


def run_demo(
    folder: str | Path, *, size: Size = "short", evaluations: int | None = None, workers: int = 2, seed: int = 0
) -> DemoResult:
    """Trains, merges, breeds and measures in `folder`.

    Args:
        folder: holds the testbed, the ledger, both studies and the page afterwards.
        size: "short" (under three minutes on two cores), "tiny" (about one, for tests) or "full" (larger models and
            budgets, some ten minutes).
        evaluations: budget of each search; that of the size when None.
        workers: processes that evaluate candidates.
        seed: of training and searching.
    """
    began = time.monotonic()
    folder, story = Path(folder), STORIES[size]
    # One task around all others, so that what lies between them is never silent either.
    with progress.bar("demo"):
        folder.mkdir(parents=True, exist_ok=True)
        bed = build(folder / "testbed", tiny=story.tiny, skills=story.skills, seed=seed)
        tasks, skills = load_tasks(bed.tasks), tuple(bed.full)
        with Ledger(folder / "ledger.sqlite") as ledger:
            progress.message("static merges, judged on validation:")
            chosen, start = _choose_static(bed, tasks, ledger)
            best_static = next(iter(chosen))
            studies = {
                name: run_study(
                    search_from(
                        start,
                        bed,
                        strategy,
                        evaluations=evaluations or story.evaluations,
                        valid=story.valid,
                        per=story.per,
                        sigma=story.sigma,
                        seed=seed,
                    ),
                    folder / name,
                    workers=workers,
                    ledger=ledger.path,
                )
                for strategy, name in STRATEGIES.items()
            }
            progress.message("test examples, asked for the first time:")
            others = _others(bed, start)
            table = _test(bed, tasks, start, others, chosen, studies, ledger)
        option = "" if size == "short" else f" --{size}"
        data = _collect(folder, others, chosen, table, skills, f"genepool demo {folder.name}{option}")
        page = write_report(data, folder / "report.html")
    return DemoResult(table, skills, best_static, page, data.headline, (time.monotonic() - began) / 60)


def validation_score(table: OutcomeTable, model: str, skills: Sequence[str]) -> float:
    """What searches maximise: the mean of the skills' mean and the generic tasks."""
    mean = sum(table.mean(model, skill) for skill in skills) / len(skills)
    return (mean + table.mean(model, GENERIC)) / 2


def _choose_static(bed: Testbed, tasks: list[Task], ledger: Ledger) -> tuple[dict[str, StaticMerge], StaticMerge]:
    """The best setting of each method by validation score, the best of all first; and the best to search from."""
    judged: list[tuple[float, StaticMerge]] = []
    skills = list(bed.full)
    for merge in static_merges(bed):
        table = evaluate([merge.weights], tasks, split="valid", ledger=ledger, keep_outputs=False, names=[merge.name])
        score = validation_score(table, merge.name, skills)
        cells = "  ".join(f"{task} {table.mean(merge.name, task):.2f}" for task in table.tasks)
        progress.message(f"  {score:.3f}  {merge.name:42} {cells}")
        judged.append((score, merge))
    judged.sort(key=lambda one: -one[0])  # of equals the first one stays first
    of_method: dict[str, StaticMerge] = {}
    for _, merge in judged:
        of_method.setdefault(merge.method, merge)
    start = next(merge for _, merge in judged if can_be_searched(merge))
    return {merge.name: merge for merge in of_method.values()}, start


def _others(bed: Testbed, start: StaticMerge) -> dict[str, str]:
    """The specialists that are not searched with, by a name of their own: full models where adapters are, or these."""
    on_base = adapters(bed)
    if dict(start.models) == on_base:
        return {f"{skill} (full)": str(path) for skill, path in bed.full.items()}
    return {f"{skill} (adapter)": model for skill, model in on_base.items()}


def _test(
    bed: Testbed,
    tasks: list[Task],
    start: StaticMerge,
    others: Mapping[str, str],
    chosen: dict[str, StaticMerge],
    studies: dict[str, StudyResult],
    ledger: Ledger,
) -> OutcomeTable:
    models: dict[str, str | Path | Weights] = {"base": bed.base, **start.models, **others}
    models |= {name: merge.weights for name, merge in chosen.items()}
    models |= {name: studies[name].winner for name in reversed(STRATEGIES.values())}
    # The page shows what these wrote, example by example; of the others it shows scores.
    shown = ["base", *start.models, next(iter(chosen)), *STRATEGIES.values()]
    evaluate([models[name] for name in shown], tasks, split="test", ledger=ledger, names=shown)
    return evaluate(list(models.values()), tasks, split="test", ledger=ledger, names=list(models), keep_outputs=False)


def _collect(
    folder: Path,
    others: Mapping[str, str],
    chosen: dict[str, StaticMerge],
    table: OutcomeTable,
    skills: tuple[str, ...],
    command: str,
) -> Report:
    """The page, as the evolved model's, with all others beside it."""
    extras = [
        ExtraModel(
            name,
            table.fingerprints[name],
            "merge",
            source=merge.method,
            recipe=_recipe_text(merge),
            method=merge.recipe.method,
        )
        for name, merge in chosen.items()
    ]
    extras += [ExtraModel(name, table.fingerprints[name], "parent", source=path) for name, path in others.items()]
    return collect_study(
        folder / STRATEGIES["cma_es"],
        beside=[folder / STRATEGIES["random_search"]],
        extra_models=extras,
        best_merge=next(iter(chosen)),
        groups={**dict.fromkeys(skills, "skills"), GENERIC: GENERIC},
        commands=[command],
    )


def _recipe_text(merge: StaticMerge) -> str:
    parts = [yaml.safe_dump(merge.recipe.to_dict(), sort_keys=False)]
    for name, inner in merge.inner.items():
        parts.append(f"# {name}\n" + yaml.safe_dump(inner.to_dict(), sort_keys=False))
    return "---\n".join(parts)
