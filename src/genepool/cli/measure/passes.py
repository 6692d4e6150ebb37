"""`genepool measure passes`: how many answers it takes until one passes."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables


def passes(
    model: options.ModelArgument,
    tasks: options.TasksOption,
    task: options.TaskOption = None,
    split: options.SplitOption = "test",
    until: Annotated[
        int, typer.Option(min=1, help="Stop an example after N passes; 2 gives an unbiased estimate.")
    ] = 2,
    draws: Annotated[int, typer.Option(min=1, help="Draw at most N answers for each example.")] = 100,
    temperature: Annotated[float, typer.Option(help="Draw at this temperature where the task says 0.")] = 1.0,
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Sample answers until they pass, to measure tasks that a model solves too rarely for one answer.

    The ledger keeps every answer, so a run that was stopped continues.

    [bold]Examples[/bold]

        genepool measure passes base/ --tasks tasks/ --task reverse --draws 500
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    from genepool import progress
    from genepool.errors import InputError

    if temperature <= 0:
        raise InputError(
            f"must be above 0, got {temperature}", where="--temperature", fix="Give a temperature such as 1"
        )
    with progress.bar("loading torch"):
        from dataclasses import replace

        import numpy as np

        from genepool.measure.prediction import pass_until_task
        from genepool.tasks import Ledger, load_tasks, open_model

        found = load_tasks(tasks, task, trusted=trust_tasks or ())
        loaded = open_model(model, allow_pickle=allow_pickle).load(device, dtype)
    told = []
    with Ledger(ledger) as book:
        for one in found:
            if one.asker is None and one.settings.temperature == 0:
                one = replace(one, settings=one.settings.model_copy(update={"temperature": temperature}))
            rates = pass_until_task(
                loaded, one, ledger=book, split=split, passes=until, max_draws=draws, limit=limit, dtype=dtype
            )
            told.append((one.name, rates))
    if json_output:
        rows = [
            {"task": name, "examples": [{"id": which, **rate.to_dict()} for which, rate in rates.items()]}
            for name, rates in told
        ]
        options.print_json({"model": model, "fingerprint": loaded.fingerprint, "tasks": rows})
        return
    shown = tables.TextTable("task", ["n", "mean rate", "lowest", "highest", "never passed", "answers"])
    for name, rates in told:
        values = [rate.rate for rate in rates.values()]
        never = sum(rate.passes == 0 for rate in rates.values())
        answers = sum(rate.draws for rate in rates.values())
        numbers = (f"{np.mean(values):.4f}", f"{min(values):.4f}", f"{max(values):.4f}")
        shown.add_row(name, f"{len(values):,}", *numbers, f"{never:,}", f"{answers:,}")
    tables.show(shown)
