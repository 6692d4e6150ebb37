"""The end of a study: the winner written, read back from the disk, and judged on the test split beside its parents.

Uses tasks and measure. Everything the page and the record say about a score comes from outcomes in the ledger;
`best.json` is written last, so a study that has one is finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import progress, staging
from genepool.evolution.ensemble import tested_together
from genepool.evolution.loop import Finalist
from genepool.evolution.opened_study import OpenedStudy
from genepool.evolution.records import BEST_FILE, WINNER_FOLDER, genes_with_values
from genepool.evolution.store import StudyStore
from genepool.threads import torch_threads

if TYPE_CHECKING:
    import numpy as np

    from genepool.weights import Weights


def write_winner(
    opened: OpenedStudy,
    store: StudyStore,
    finalists: Sequence[Finalist],
    out: Path,
    ledger: Path,
    *,
    notices: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the winner as a checkpoint, tests what was written, and records the study's end.

    Args:
        opened: the study.
        store: its record, the search ended.
        finalists: the best of the search, the winner first.
        out: the study's folder; `winner/` and `best.json` appear in it.
        ledger: where test outcomes are kept.
        notices: what people should know of how the search went.

    Returns:
        What `best.json` says.
    """
    from genepool.weights import open_weights

    study = opened.study
    winner, folder = finalists[0].candidate, out / WINNER_FOLDER
    lineage = _lineage(opened, store, finalists[0])
    opened.representation.write(winner, folder, lineage)
    written = open_weights(str(folder))
    models = {name: opened.sources[model] for name, model in study.named_models.items()} | {"winner": written}
    rows = _tested(opened, models, ledger)
    record = {**_record(opened, store, finalists, rows, ledger), **({"notices": list(notices)} if notices else {})}
    if study.ensemble:
        members = [finalist.candidate for finalist in finalists[: study.ensemble]]
        record["ensemble"] = {"asked": study.ensemble, **tested_together(opened, members, ledger)}
    # The card is written again now that the scores of what lies beside it are known.
    sections = {"Scores": _scores(rows, finalists[0]), **lineage}
    staging.write_text(folder / "README.md", opened.representation.card(winner, sections))
    staging.write_text(out / BEST_FILE, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return record


def _tested(opened: OpenedStudy, models: Mapping[str, Weights], ledger: Path) -> list[dict[str, Any]]:
    """Every model on the test split: one row each, with a 95% interval per task."""
    from genepool.measure import mean_interval
    from genepool.tasks import Ledger, evaluate

    study = opened.study
    rows = []
    with progress.bar("testing", len(models), "models") as bar, torch_threads(study.threads), Ledger(ledger) as book:
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
                device=opened.device,
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
    finalists: Sequence[Finalist],
    rows: Sequence[Mapping[str, Any]],
    ledger: Path,
) -> dict[str, Any]:
    first, winner = finalists[0], rows[-1]
    test = {task: row["mean"] for task, row in winner["test"].items()}
    return {
        "schema": 1,
        "strategy": opened.study.strategy.name,
        "vary": opened.study.vary.kind,
        "genome": first.candidate.genome,
        **genes_with_values(store.get("genes", []), first.candidate.genome),
        "fitness": first.judged.fitness,
        "id": first.candidate.id,
        "generation": first.candidate.generation,
        "index": first.candidate.index,
        "fingerprint": winner["fingerprint"],
        "valid": dict(first.judged.valid),
        "test": test,
        "curse": winners_curse(opened, [v.fitness for _, v in store.finished() if v.fitness is not None], first, test),
        "evaluations": len(store.finished()),
        "seed": opened.study.seed,
        "finalists": [
            {
                "id": finalist.candidate.id,
                "generation": finalist.candidate.generation,
                "index": finalist.candidate.index,
                "searched": finalist.searched.fitness if finalist.searched else None,
                "fitness": finalist.judged.fitness,
            }
            for finalist in finalists
        ],
        **opened.representation.record(first.candidate),
        **({"forked_from": origin} if (origin := store.get("forked_from", "")) else {}),
        "models": list(rows),
        "tasks_dir": opened.study.tasks.dir,
        "ledger": str(ledger.resolve()),
        "cost": store.cost(),
    }


def winners_curse(
    opened: OpenedStudy, everyone: Sequence[float], winner: Finalist, test: Mapping[str, float]
) -> dict[str, float]:
    """How much of the winner's score was luck: whoever is best of many is also luckier than most.

    Args:
        opened: the study.
        everyone: fitness of all candidates.
        winner: the winner.
        test: its means on the test split.

    Returns:
        Fitness by what it was taken on: "searched" (what it was chosen by), "shrunk" (that, drawn towards the mean of
        all candidates by the share of their variance that is noise of the examples: James & Stein 1961), "fresh"
        (validation examples the search did not use), "valid" (all of them), "test". What does not exist is left out.
    """
    import numpy as np

    found = {"valid": float(winner.judged.fitness or 0.0), "test": opened.worth(test)}
    seen, limit = winner.searched, opened.study.tasks.valid
    tasks = {task.name: len(task.examples("valid")) for task in opened.tasks}
    if seen is not None and seen.fitness is not None:
        found["searched"] = seen.fitness
        parts = _by_task(seen.example_scores(), {name: min(n, limit or n) for name, n in tasks.items()})
        weights = np.array([opened.study.tasks.weights.get(name, 1.0) for name in tasks])
        noise = sum(
            (weight / weights.sum()) ** 2 * float(part.var()) / len(part)
            for weight, part in zip(weights, parts.values(), strict=True)
        )
        spread = float(np.var(everyone))
        if spread > 0:
            mean = float(np.mean(everyone))
            found["shrunk"] = mean + max(0.0, 1 - noise / spread) * (seen.fitness - mean)
    # Without finalists nothing was judged again.
    judged_again = len(winner.judged.scores) == 4 * sum(tasks.values())
    if judged_again and limit is not None and all(n > limit for n in tasks.values()):
        parts = _by_task(winner.judged.example_scores(), tasks)
        found["fresh"] = opened.worth({name: float(part[limit:].mean()) for name, part in parts.items()})
    return found


def _by_task(scores: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Scores of all examples, cut where one task ends and the next begins."""
    import numpy as np

    if sum(sizes.values()) != len(scores):
        raise ValueError(f"got {len(scores)} scores, expected {sum(sizes.values())}")
    return dict(zip(sizes, np.split(scores, np.cumsum(list(sizes.values()))[:-1]), strict=True))


def _lineage(opened: OpenedStudy, store: StudyStore, winner: Finalist) -> dict[str, str]:
    study, spent, finished = opened.study, store.cost(), store.finished()
    failed = sum(v.fitness is None for _, v in finished)
    parents = "\n".join(
        f"- {name}: `{model}` (fingerprint `{fingerprint[:12]}`)"
        for name, model in study.named_models.items()
        for fingerprint in [opened.inputs["models"].get(name) or opened.inputs["base"]]
    )
    found = winner.candidate
    place = (
        f"candidate {found.index} of generation {found.generation}"
        if winner.searched
        else f"the strategy's own guess after {found.generation} generations"
    )
    genes = "\n".join(f"| {name} | {_told(value)} |" for name, value in found.genome.items())
    return {
        "Lineage": (
            f"Found by `{study.strategy.name}` (seed {study.seed}): {place}, chosen on validation among "
            f"{len(finished)} candidates{f' of which {failed} failed' if failed else ''}.\n\n{parents}"
        ),
        "Genome": f"| gene | value |\n|---|---|\n{genes}",
        "Cost": (
            f"{spent['seconds']:.0f} s of evaluations ({spent['cpu_seconds']:.0f} s of processor time), "
            f"{spent['examples']} examples computed."
        ),
    }


def _told(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scores(rows: Sequence[Mapping[str, Any]], winner: Finalist) -> str:
    tasks = list(rows[-1]["test"])
    lines = [
        "Mean on the test split with 95% intervals; the winner as read back from these files. Below it, what it "
        "was chosen by: validation scores, which flatter whoever is chosen by them.",
        "",
        "| model | " + " | ".join(tasks) + " |",
        "|---" * (len(tasks) + 1) + "|",
    ]
    for row in rows:
        cells = [f"{s['mean']:.3f} [{s['lo']:.3f}, {s['hi']:.3f}]" for s in (row["test"][task] for task in tasks)]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    chosen_by = {"winner, all of validation": winner.judged, "winner, in the search": winner.searched}
    for name, verdict in chosen_by.items():
        if verdict is not None:
            lines.append(f"| {name} | " + " | ".join(f"{verdict.valid[task]:.3f}" for task in tasks) + " |")
    return "\n".join(lines)
