"""The end of a study: the winner written, read back from the disk, and judged on the test split beside its parents.

Uses merge, tasks and measure. Everything the page and the record say about a score comes from outcomes in the ledger;
`best.json` is written last, so a study that has one is finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress, staging
from genepool.errors import InputError
from genepool.evolve.loop import best_of
from genepool.evolve.opened import OpenedStudy, computing_with
from genepool.evolve.store import Candidate, StudyStore, Verdict

if TYPE_CHECKING:
    from genepool.merge import Plan
    from genepool.weights import Weights

BEST_FILE, WINNER_FOLDER = "best.json", "winner"


def crown(opened: OpenedStudy, store: StudyStore, out: Path, ledger: Path) -> dict[str, Any]:
    """Writes the best candidate as a checkpoint, tests what was written, and records the study's end.

    Args:
        opened: the study.
        store: its record, the search ended.
        out: the study's folder; `winner/` and `best.json` appear in it.
        ledger: where test outcomes are kept.

    Returns:
        What `best.json` says.

    Raises:
        InputError: no candidate succeeded.
    """
    from genepool.merge import run_plan
    from genepool.merge.card import model_card
    from genepool.weights import open_weights

    best = best_of(store)
    if best is None:
        raise InputError(
            "the budget ended before a candidate succeeded", where=store.path, fix="Allow more evaluations or minutes"
        )
    candidate, verdict = best
    plan = opened.plan_of(candidate)
    folder = out / WINNER_FOLDER
    lineage = _lineage(opened, store, candidate, verdict)
    run_plan(plan, folder, overwrite=True, sections=lineage)
    written = open_weights(str(folder))
    names = {"base": opened.study.base, **{skill.name: skill.model for skill in opened.study.skills}}
    models = {name: opened.sources[model] for name, model in names.items()} | {"winner": written}
    rows = _tested(opened, models, ledger)
    record = _record(opened, store, candidate, verdict, plan, rows, ledger)
    # The card is written again now that the scores of what lies beside it are known.
    staging.write_text(folder / "README.md", model_card(plan, {"Scores": _scores(rows, verdict), **lineage}))
    staging.write_text(out / BEST_FILE, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return record


def _tested(opened: OpenedStudy, models: Mapping[str, Weights], ledger: Path) -> list[dict[str, Any]]:
    """Every model on the test split: one row each, with a 95% interval per task."""
    from genepool.measure import mean_interval
    from genepool.tasks import Ledger, evaluate

    study = opened.study
    rows = []
    with progress.bar("testing", len(models), "models") as bar, computing_with(study.threads), Ledger(ledger) as book:
        for name, weights in models.items():
            bar.note(name)
            table = evaluate(
                [weights],
                opened.tasks,
                split="test",
                ledger=book,
                limit=study.tasks.test,
                seed=study.seed,
                threads=study.threads,
                batch_size=study.batch,
                keep_outputs=True,
                names=[name],
            )
            test = {}
            for task in table.tasks:
                scores = table.scores(name, task)
                mean, low, high = mean_interval(scores)
                test[task] = {"n": len(scores), "mean": mean, "lo": low, "hi": high}
            kind = name if name in ("base", "winner") else "parent"
            rows.append({"name": name, "kind": kind, "fingerprint": table.fingerprints[name], "test": test})
            bar.advance()
    return rows


def _record(
    opened: OpenedStudy,
    store: StudyStore,
    candidate: Candidate,
    verdict: Verdict,
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    ledger: Path,
) -> dict[str, Any]:
    winner = rows[-1]
    return {
        "schema": 1,
        "strategy": opened.study.strategy.name,
        "genome": candidate.genome,
        "fitness": verdict.fitness,
        "id": candidate.id,
        "generation": candidate.generation,
        "index": candidate.index,
        "fingerprint": winner["fingerprint"],
        "valid": dict(verdict.valid),
        "test": {task: row["mean"] for task, row in winner["test"].items()},
        "evaluations": len(store.finished()),
        "seed": opened.study.seed,
        "recipe": plan.recipe.to_dict(),
        "models": list(rows),
        "tasks_dir": opened.study.tasks.dir,
        "ledger": str(ledger.resolve()),
        "cost": cost(store),
    }


def cost(store: StudyStore) -> dict[str, float]:
    """What the search has taken so far: summed seconds of evaluations, processor seconds, examples computed."""
    verdicts = [verdict for _, verdict in store.finished()]
    return {
        "seconds": round(sum(v.seconds for v in verdicts), 3),
        "cpu_seconds": round(sum(v.cpu_seconds for v in verdicts), 3),
        "examples": sum(v.examples for v in verdicts),
    }


def _lineage(opened: OpenedStudy, store: StudyStore, candidate: Candidate, verdict: Verdict) -> dict[str, str]:
    study, spent, finished = opened.study, cost(store), store.finished()
    failed = sum(v.fitness is None for _, v in finished)
    parents = "\n".join(
        f"- {name}: `{model}` (fingerprint `{fingerprint[:12]}`)"
        for name, model, fingerprint in [
            ("base", study.base, opened.inputs["base"]),
            *((s.name, s.model, opened.inputs["models"][s.name]) for s in study.skills),
        ]
    )
    genes = "\n".join(f"| {name} | {value:g} |" for name, value in candidate.genome.items())
    return {
        "Lineage": (
            f"Found by `{study.strategy.name}` (seed {study.seed}) as candidate {candidate.index} of generation "
            f"{candidate.generation}, the best on validation of {len(finished)} candidates"
            f"{f', {failed} of which failed' if failed else ''}.\n\n{parents}"
        ),
        "Genome": f"| gene | value |\n|---|---|\n{genes}",
        "Cost": (
            f"{spent['seconds']:.0f} s of evaluations ({spent['cpu_seconds']:.0f} s of processor time), "
            f"{spent['examples']} examples computed."
        ),
    }


def _scores(rows: Sequence[Mapping[str, Any]], verdict: Verdict) -> str:
    tasks = list(rows[-1]["test"])
    lines = [
        "Mean on the test split with 95% intervals, the winner as read back from these files; the last row is what the "
        "search saw on validation and chose by, which flatters.",
        "",
        "| model | " + " | ".join(tasks) + " |",
        "|---" * (len(tasks) + 1) + "|",
    ]
    for row in rows:
        cells = [f"{s['mean']:.3f} [{s['lo']:.3f}, {s['hi']:.3f}]" for s in (row["test"][task] for task in tasks)]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    lines.append("| winner, validation | " + " | ".join(f"{verdict.valid[task]:.3f}" for task in tasks) + " |")
    return "\n".join(lines)
