"""What more training, a larger model or more samples would give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.measure import common


def curve(
    context: typer.Context,
    points: Annotated[Path, typer.Argument(help="CSV, JSONL or Parquet with what was spent and the error there.")],
    spent: Annotated[str, typer.Option(help="The column with examples or steps.")] = "n",
    error: Annotated[str, typer.Option(help="The column with the error, such as one minus the score.")] = "error",
    at: Annotated[list[float] | None, typer.Option(help="Predict the error here; may be given several times.")] = None,
    horizon: Annotated[float | None, typer.Option(help="How far the run could go: whether that is worth it.")] = None,
    threshold: Annotated[float, typer.Option(help="With --horizon: a gain below this is not worth going on.")] = 0.01,
    kind: Annotated[str | None, typer.Option(help="fixed, power or shifted; by the number of points.")] = None,
    seed: common.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Fit a learning curve to a run that is partly done, predict what is to come, and say whether to stop.

    e(n) = a + b (n + c)^g: fixed takes g = -0.5 and c = 0 (for few points), power fits g, shifted fits c too.

    [bold]Examples[/bold]

        genepool measure curve run.csv --at 100000

        genepool measure curve run.csv --spent step --error loss --horizon 20000 --threshold 0.005
    """
    options.begin(quiet)
    options.only_with(context, horizon is not None, "--horizon", "threshold")
    from typing import cast

    from genepool.errors import InputError, nearest
    from genepool.measure import prediction
    from genepool.tasks.reading import read_numbers

    kinds = ("fixed", "power", "shifted")
    if kind is not None and kind not in kinds:
        raise InputError(f"unknown kind '{kind}'", where="--kind", fix=nearest(kind, kinds))
    sizes, errors = read_numbers(points, (spent, error))
    fitted = prediction.learning_curve(sizes, errors, kind=cast("prediction.CurveKind | None", kind), seed=seed)
    told = {where: fitted.predict(where) for where in at or ([horizon] if horizon else [])}
    advice = None if horizon is None else fitted.advice(max(sizes), horizon, threshold)
    if json_output:
        shown = [{spent: where, **found._asdict()} for where, found in told.items()]
        stopping = None if advice is None else advice.as_json()
        options.print_json({"curve": fitted.as_json(), "predictions": shown, "advice": stopping})
        return
    shift = f" + {fitted.c:.4g}" if fitted.c else ""
    typer.echo(f"error({spent}) = {fitted.a:.4g} + {fitted.b:.4g} ({spent}{shift})^{fitted.g:.3g}")
    typer.echo(f"{fitted.points} points, root mean square distance {fitted.residual:.2g}")
    for where, found in told.items():
        typer.echo(f"at {where:g}: {found.mean:.4f} (95%: {found.lo:.4f} to {found.hi:.4f})")
    if advice is not None:
        gain = advice.gain
        verdict = "stop" if advice.stop else "go on"
        typer.echo(
            f"from {advice.now:g} to {advice.horizon:g} the error falls by {gain.mean:.4f} "
            f"({gain.lo:.4f} to {gain.hi:.4f}): {verdict}"
        )


def passes(
    model: Annotated[str, typer.Argument(help="Folder, file, hub model, BASE+ADAPTER or BASE+SKILL.")],
    tasks: common.TasksOption,
    task: common.TaskOption = None,
    split: common.SplitOption = "test",
    until: Annotated[int, typer.Option(min=1, help="Passes after which an example is done; 2 is unbiased.")] = 2,
    draws: Annotated[int, typer.Option(min=1, help="Answers per example at most.")] = 100,
    temperature: Annotated[float, typer.Option(help="Of tasks that say 0.")] = 1.0,
    ledger: common.LedgerOption = None,
    limit: common.LimitOption = None,
    device: common.DeviceOption = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Sample answers until they pass: a measure for abilities that one answer an example does not show.

    Every answer is kept in the ledger, so a run that was stopped goes on.

    [bold]Examples[/bold]

        genepool measure passes base/ --tasks tasks/ --task reverse --draws 500
    """
    options.begin(quiet)
    from genepool import progress
    from genepool.errors import InputError

    if temperature <= 0:
        raise InputError(f"a temperature of {temperature}", where="--temperature", fix="Give one above 0")
    with progress.bar("loading torch"):
        from dataclasses import replace

        import numpy as np

        from genepool.measure.prediction import pass_until_task
        from genepool.tasks import LanguageModel, Ledger, load_tasks
        from genepool.weights import open_weights

        found = load_tasks(tasks, task, trusted=trust_tasks or ())
        loaded = LanguageModel.load(open_weights(model, allow_pickle=allow_pickle), device=device)
    told = []
    with Ledger(ledger) as book:
        for one in found:
            if one.asker is None and one.settings.temperature == 0:
                one = replace(one, settings=one.settings.model_copy(update={"temperature": temperature}))
            rates = pass_until_task(loaded, one, ledger=book, split=split, passes=until, max_draws=draws, limit=limit)
            told.append((one.name, rates))
    if json_output:
        rows = [
            {"task": name, "examples": [{"id": which, **rate.as_json()} for which, rate in rates.items()]}
            for name, rates in told
        ]
        options.print_json({"model": model, "fingerprint": loaded.fingerprint, "tasks": rows})
        return
    shown = options.plain_table("task", ["n", "mean rate", "lowest", "highest", "never passed", "answers"])
    for name, rates in told:
        values = [rate.rate for rate in rates.values()]
        never = sum(rate.passes == 0 for rate in rates.values())
        answers = sum(rate.draws for rate in rates.values())
        numbers = (f"{np.mean(values):.4f}", f"{min(values):.4f}", f"{max(values):.4f}")
        shown.add_row(name, f"{len(values):,}", *numbers, f"{never:,}", f"{answers:,}")
    options.console().print(shown)


def jump(
    models: common.ModelsArgument,
    tasks: common.TasksOption,
    task: common.TaskOption = None,
    split: common.SplitOption = "test",
    ledger: common.LedgerOption = None,
    limit: common.LimitOption = None,
    device: common.DeviceOption = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: common.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Say whether a jump in exact match is the models' or the metric's, from token-level metrics of the same answers.

    Name the models by size, or by steps of training, three at least.

    [bold]Examples[/bold]

        genepool measure jump step-100/ step-200/ step-400/ step-800/ --tasks tasks/ --task reverse
    """
    options.begin(quiet)
    from genepool.measure.prediction import metric_choice

    table = common.ask(models, tasks, task, split, ledger, limit, device, trust_tasks, allow_pickle)
    found = [metric_choice(table, name, seed=seed) for name in table.tasks]
    if json_output:
        options.print_json({"tasks": [one.as_json() for one in found]})
        return
    for one in found:
        shown = options.plain_table("metric", [*one.models, "share at the jump"])
        for metric in one.curves:
            share = "–" if metric.share is None else f"{metric.share:.0%}"
            shown.add_row(metric.metric, *map(common.interval, metric.values), share)
        shown.title = one.task
        options.console().print(shown)
        gap = one.sharper
        typer.echo(
            f"{one.task}: between {one.jump[0]} and {one.jump[1]}; exact match has {gap.mean:+.0%} more of its way "
            f"there than right tokens ({gap.lo:+.0%} to {gap.hi:+.0%}): the jump is {one.verdict}"
        )
