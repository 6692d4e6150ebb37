"""`genepool soup`: average the models that make the average better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.weights import Weights

PANEL = options.Panel.models


def soup(
    models: options.ModelsArgument,
    tasks: options.TasksOption,
    out: options.OutFolderOption,
    base: Annotated[str | None, typer.Option(help="Take the config and the tokenizer from this model.")] = None,
    rest: options.RestOption = None,
    task: options.TaskOption = None,
    split: options.SplitOption = "valid",
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
    batch_size: options.BatchSizeOption = 128,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    seed: options.DrawingSeedOption = None,
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make a greedy soup: start from the best model and average in each model that raises the mean score.

    Only the soup is written. Outcomes are kept in the ledger: no model is asked the same example twice.

    [bold]Examples[/bold]

        genepool soup run1/ run2/ run3/ --tasks tasks/ --out soup/

        genepool soup run1/ run2/ --base base/ --tasks tasks/ --task reverse --out soup/ --json
    """
    options.begin(quiet)
    options.refuse_own_input(out, models, base, rest, tasks, ledger, plugin, trust_tasks)
    options.load_plugins(plugin)
    from genepool import progress, staging

    staging.check_free(out, overwrite=overwrite)
    with progress.bar("loading torch"):
        from genepool.merging import greedy_soup, run_plan
        from genepool.tasks import Ledger, load_tasks
        from genepool.tasks import evaluate as ask
        from genepool.tasks.ledger import default_path

    options.refuse_own_input(out, default_path())
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
                dtype=dtype,
            )
            evaluated += table.evaluated
            return sum(table.mean(table.models[0], name) for name in table.tasks) / len(table.tasks)

        found = greedy_soup(models, score, base=base, rest=rest, allow_pickle=allow_pickle)
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
    title = f"greedy soup, mean over tasks, {split} split"
    shown = tables.TextTable("model", ["alone", "soup with it", "kept"], title=title)
    for step in found.steps:
        shown.add_row(step.model, f"{step.alone:.3f}", f"{step.together:.3f}", "yes" if step.kept else "no")
    tables.show(shown)
    tables.print_text(f"{out}: the average of {len(kept)} of {len(found.steps)} model{'s' * (len(found.steps) != 1)}")
