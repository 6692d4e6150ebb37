"""`genepool soup`: average the models that make the average better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options

if TYPE_CHECKING:
    from genepool.weights import Weights


def soup(
    models: Annotated[list[str], typer.Argument(help="Folders, files, hub models, BASE+ADAPTER, BASE+SKILL.")],
    tasks: Annotated[Path, typer.Option(help="Folder of tasks, one task folder, or one JSONL file.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it appears whole or not at all.")],
    base: Annotated[str | None, typer.Option(help="What they came from: its config and tokenizer go along.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given several times.")] = None,
    split: Annotated[str, typer.Option(help="Which examples choose: train, valid or test.")] = "valid",
    ledger: Annotated[Path | None, typer.Option(help="Where outcomes are kept; $GENEPOOL_LEDGER when absent.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many examples of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per batch.")] = 128,
    device: Annotated[str, typer.Option(help="Where the model computes, such as cpu or cuda.")] = "cpu",
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of tasks that draw tokens.")] = None,
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make a greedy soup: from the best model on, average in each that raises the mean score over the tasks.

    Candidates are asked in memory; only the soup is written. What was asked once is read from the ledger.

    [bold]Examples[/bold]

        genepool soup run1/ run2/ run3/ --tasks tasks/ --out soup/

        genepool soup run1/ run2/ --base base/ --tasks tasks/ --task reverse --out soup/ --json
    """
    options.begin(quiet)
    from genepool import progress, staging

    staging.check_free(out, overwrite=overwrite)
    with progress.bar("loading torch"):
        from genepool.merging import greedy_soup, run_plan
        from genepool.tasks import Ledger, load_tasks
        from genepool.tasks import evaluate as ask

    asked = load_tasks(tasks, task, trusted=trust_tasks or ())
    evaluated = 0
    with Ledger(ledger) as book:

        def score(weights: Weights) -> float:
            nonlocal evaluated
            table = ask(
                [weights],
                asked,
                split=split,
                ledger=book,
                limit=limit,
                seed=seed,
                batch_size=batch_size,
                keep_outputs=False,
                device=device,
            )
            evaluated += table.evaluated
            return sum(table.mean(table.models[0], name) for name in table.tasks) / len(table.tasks)

        found = greedy_soup(models, score, base=base, allow_pickle=allow_pickle)
    run_plan(found.plan, out, overwrite=overwrite)
    kept = [step.model for step in found.steps if step.kept]
    if json_output:
        steps = [
            {"model": step.model, "alone": step.alone, "together": step.together, "kept": step.kept}
            for step in found.steps
        ]
        answer = {"out": str(out), "models": kept, "split": split, "score": found.score, "steps": steps}
        options.print_json({**answer, "evaluated": evaluated})
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table("model", "alone", "soup with it", "kept", title=f"greedy soup, mean over tasks, {split} split")
    for step in found.steps:
        shown.add_row(step.model, f"{step.alone:.3f}", f"{step.together:.3f}", "yes" if step.kept else "no")
    Console().print(shown)
    print(f"{out}: the average of {len(kept)} of {len(found.steps)} models")
