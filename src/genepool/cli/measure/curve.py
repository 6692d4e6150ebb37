"""`genepool measure curve`: what more training would give, and whether to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables


def curve(
    context: typer.Context,
    points: Annotated[
        Path, typer.Argument(help="A CSV, JSONL or Parquet file with the columns of --spent and --error.")
    ],
    spent: Annotated[str, typer.Option(help="Read the examples or steps from this column.")] = "n",
    error: Annotated[
        str, typer.Option(help="Read the error, such as one minus the score, from this column.")
    ] = "error",
    at: Annotated[
        list[float] | None, typer.Option(help="Predict the error at this number of examples or steps; repeatable.")
    ] = None,
    horizon: Annotated[
        float | None, typer.Option(help="Show whether training up to this number of examples or steps is worth it.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Stop if the error would fall by less than this; only with --horizon.")
    ] = 0.01,
    kind: Annotated[
        str | None,
        typer.Option(help="Fit this curve: fixed, power or shifted; by default the number of points decides."),
    ] = None,
    seed: options.BootstrapSeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Fit a learning curve to an unfinished run, predict its errors, and advise whether to stop.

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
        raise InputError(f"got '{kind}', expected a known kind", where="--kind", fix=nearest(kind, kinds))
    sizes, errors = read_numbers(points, (spent, error))
    fitted = prediction.learning_curve(sizes, errors, kind=cast("prediction.CurveKind | None", kind), seed=seed)
    told = {where: fitted.predict(where) for where in at or ([horizon] if horizon else [])}
    advice = None if horizon is None else fitted.advice(max(sizes), horizon, threshold)
    if json_output:
        shown = [{spent: where, **found._asdict()} for where, found in told.items()]
        stopping = None if advice is None else advice.to_dict()
        options.print_json({"curve": fitted.to_dict(), "predictions": shown, "advice": stopping})
        return
    shift = f" + {fitted.c:.4g}" if fitted.c else ""
    tables.print_text(f"error({spent}) = {fitted.a:.4g} + {fitted.b:.4g} ({spent}{shift})^{fitted.g:.3g}")
    tables.print_text(f"{fitted.points} points, root mean square distance {fitted.residual:.2g}")
    for where, found in told.items():
        tables.print_text(f"at {where:g}: {found.mean:.4f} (95%: {found.lo:.4f} to {found.hi:.4f})")
    if advice is not None:
        gain = advice.gain
        verdict = "stop" if advice.stop else "go on"
        tables.print_text(
            f"from {advice.now:g} to {advice.horizon:g} the error falls by {gain.mean:.4f} "
            f"({gain.lo:.4f} to {gain.hi:.4f}): {verdict}"
        )
