"""The demo, start to finish: testbed, specialists, static merges, two searches of equal budget, one page.

Everything is chosen on validation examples; the test examples are asked once, at the end. Run again, it goes on
where it was stopped: models are cached by content, outcomes are in the ledger, studies resume.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from genepool import progress
from genepool.demo.static import StaticMerge, adapters, static_merges
from genepool.evolution import Study, StudyResult, run_study
from genepool.report import ExtraModel, collect_study, write_report
from genepool.tasks import Ledger, OutcomeTable, Task, evaluate, load_tasks
from genepool.testbed import Testbed, build
from genepool.weights import Weights

GENERIC = "generic"
STRATEGIES = {"cma_es": "evolved", "random_search": "random"}
# The search begins at a good static merge, so it takes smaller steps than the papers' 1/6 of the range. Chosen on
# validation, seed 0: 0.989 against 0.987, and 0.986 for random search.
_SIGMA = 0.08


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        table: the test outcomes of every model shown.
        skills: the skill tasks; the rest is `generic`.
        best_static: name of the static merge chosen on validation.
        report: the page.
        minutes: wall time of this run.
    """

    table: OutcomeTable
    skills: tuple[str, ...]
    best_static: str
    report: Path
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
    folder: str | Path, *, tiny: bool = False, evaluations: int | None = None, workers: int = 2, seed: int = 0
) -> DemoResult:
    """Trains, merges, breeds and measures in `folder`.

    Args:
        folder: holds the testbed, the ledger, both studies and the page afterwards.
        tiny: a smaller testbed and budget: one minute instead of six.
        evaluations: budget of each search; 60 when tiny, else 300.
        workers: processes that evaluate candidates.
        seed: of training and searching.
    """
    began = time.monotonic()
    # One task around all others, so that what lies between them is never silent either.
    with progress.bar("demo"):
        table, skills, best_static, page = _tell(Path(folder), tiny, evaluations, workers, seed)
    return DemoResult(table, skills, best_static, page, (time.monotonic() - began) / 60)


def _tell(
    folder: Path, tiny: bool, evaluations: int | None, workers: int, seed: int
) -> tuple[OutcomeTable, tuple[str, ...], str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    bed = build(folder / "testbed", tiny=tiny, seed=seed)
    tasks, skills = load_tasks(bed.tasks), tuple(bed.full)
    budget = evaluations or (60 if tiny else 300)
    with Ledger(folder / "ledger.sqlite") as ledger:
        progress.message("static merges, judged on validation:")
        chosen, best_static = _choose_static(bed, tasks, ledger)
        studies = {
            name: run_study(
                _study(bed, strategy, budget, tiny, seed), folder / name, workers=workers, ledger=ledger.path
            )
            for strategy, name in STRATEGIES.items()
        }
        progress.message("test examples, asked for the first time:")
        table = _test(bed, tasks, chosen, best_static, studies, ledger)
    page = _write_page(folder, bed, chosen, best_static, table, skills)
    return table, skills, best_static, page


def _study(bed: Testbed, strategy: str, budget: int, tiny: bool, seed: int) -> Study:
    """The same search for every strategy: one weight per adapter and layer, beginning at one half each.

    Skills together count as much as the generic tasks, for the static merges as for the search.
    """
    skills = list(bed.lora)
    return Study(
        base=str(bed.base),
        skills=[{"name": skill, "model": model} for skill, model in adapters(bed).items()],
        vary={
            "kind": "merge_parameters",
            "method": "task_arithmetic",
            "parameters": {"lambda": 1.0},
            "search": {
                "weight": {
                    "low": 0.0,
                    "high": 1.2,
                    "start": 0.5,
                    "per": {"skill": True, "layer_groups": 2 if tiny else 4},
                }
            },
        },
        tasks={"dir": str(bed.tasks), "weights": {GENERIC: len(skills)}, "valid": 64 if tiny else 128},
        strategy={"name": strategy, "options": {"sigma": _SIGMA} if strategy == "cma_es" else {}},
        budget={"evaluations": budget},
        # Judged again on all 512: the best of hundreds on 128 examples is partly the luckiest.
        finalists=10,
        seed=seed,
    )


def validation_score(table: OutcomeTable, model: str, skills: Sequence[str]) -> float:
    """What searches maximise: the mean of the skills' mean and the generic tasks."""
    mean = sum(table.mean(model, skill) for skill in skills) / len(skills)
    return (mean + table.mean(model, GENERIC)) / 2


def _choose_static(bed: Testbed, tasks: list[Task], ledger: Ledger) -> tuple[dict[str, StaticMerge], str]:
    """The best setting of each method, by validation score, and the name of the best of all."""
    best: dict[str, tuple[float, StaticMerge]] = {}
    skills = list(bed.full)
    for merge in static_merges(bed):
        table = evaluate([merge.weights], tasks, split="valid", ledger=ledger, keep_outputs=False, names=[merge.name])
        score = validation_score(table, merge.name, skills)
        cells = "  ".join(f"{task} {table.mean(merge.name, task):.2f}" for task in table.tasks)
        progress.message(f"  {score:.3f}  {merge.name:42} {cells}")
        if merge.method not in best or score > best[merge.method][0]:
            best[merge.method] = (score, merge)
    chosen = {merge.name: merge for _, merge in best.values()}
    return chosen, max(best.values(), key=lambda pair: pair[0])[1].name


def _test(
    bed: Testbed,
    tasks: list[Task],
    chosen: dict[str, StaticMerge],
    best_static: str,
    studies: dict[str, StudyResult],
    ledger: Ledger,
) -> OutcomeTable:
    models: dict[str, str | Path | Weights] = {"base": bed.base, **adapters(bed)}
    models |= {f"{skill} (full)": path for skill, path in bed.full.items()}
    models |= {name: merge.weights for name, merge in chosen.items()}
    models |= {name: studies[name].winner for name in reversed(STRATEGIES.values())}
    # The page shows what these wrote, example by example; of the others it shows scores.
    shown = ["base", *bed.lora, best_static, *STRATEGIES.values()]
    evaluate([models[name] for name in shown], tasks, split="test", ledger=ledger, names=shown)
    return evaluate(list(models.values()), tasks, split="test", ledger=ledger, names=list(models), keep_outputs=False)


def _write_page(
    folder: Path,
    bed: Testbed,
    chosen: dict[str, StaticMerge],
    best_static: str,
    table: OutcomeTable,
    skills: tuple[str, ...],
) -> Path:
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
    others = {f"{skill} (full)": str(path) for skill, path in bed.full.items()}
    extras += [ExtraModel(name, table.fingerprints[name], "parent", source=path) for name, path in others.items()]
    data = collect_study(
        folder / STRATEGIES["cma_es"],
        beside=[folder / STRATEGIES["random_search"]],
        extra_models=extras,
        best_merge=best_static,
        groups={**dict.fromkeys(skills, "skills"), GENERIC: GENERIC},
        commands=[f"genepool demo {folder.name}"],
    )
    return write_report(data, folder / "report.html")


def _recipe_text(merge: StaticMerge) -> str:
    parts = [yaml.safe_dump(merge.recipe.to_dict(), sort_keys=False)]
    for name, inner in merge.inner.items():
        parts.append(f"# {name}\n" + yaml.safe_dump(inner.to_dict(), sort_keys=False))
    return "---\n".join(parts)
