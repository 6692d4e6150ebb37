"""`genepool evolve`: search the merge parameters of a study file for the best model, unkillably."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.evolution.permissions import Permissions

PANEL = options.Panel.evolution


class Compute(StrEnum):
    """What candidates can be evaluated in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def evolve(
    study: Annotated[
        Path, typer.Argument(help="The study file: YAML with the key `study: 1`, or a file of mergekit-evolve.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Write the run to this folder; a run that was stopped continues.")],
    budget: Annotated[
        int | None, typer.Option("--budget", help="Evaluate N candidates in all; by default the study's own budget.")
    ] = None,
    workers: Annotated[
        str,
        typer.Option("--workers", help="Evaluate in N processes, or on ray, ray:N or ray://HOST:PORT."),
    ] = "1",
    ledger: options.LedgerOption = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", callback=options.checked_seed, help="Set the seed of the search; by default the study's."
        ),
    ] = None,
    stop_when: Annotated[
        list[str] | None,
        typer.Option(
            "--stop-when",
            help="Stop early at target=FITNESS, stall=GENERATIONS, evaluations=N or minutes=M; repeatable.",
        ),
    ] = None,
    fork: Annotated[
        Path | None,
        typer.Option("--fork", help="Start from the best of this run, which ran the study before you changed it."),
    ] = None,
    tasks: options.TaskFoldersOption = None,
    device: options.DeviceOption = "cpu",
    dtype: Annotated[
        Compute | None,
        typer.Option("--dtype", help="Compute in this type, float32 or bfloat16; by default the study's `compute`."),
    ] = None,
    plugin: options.PluginOption = None,
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Evolve recipes or breed models as a study defines, and write the best model, tested on held-out examples.

    [bold]Examples[/bold]

        genepool evolve study.yaml --out run

        genepool evolve study.yaml --out run --budget 400 --workers 2

        genepool evolve study.yaml --out run --workers ray://head:10001

        genepool evolve study.yaml --out run --stop-when target=0.9,stall=10

        genepool evolve changed.yaml --out second --fork run

        genepool evolve mergekit-evolve.yaml --out run --tasks tasks --budget 100

    You may kill the command at any time: the same command continues and repeats no finished evaluation. A larger
    budget continues a finished run. For a baseline at the same budget, run the study with `strategy: random_search`.
    """
    options.begin(quiet)
    from genepool import progress

    with progress.bar("loading torch"):
        from genepool.evolution import run_study

    from genepool.evolution.permissions import Permissions
    from genepool.evolution.stopping import with_stops
    from genepool.evolution.study_file import load_study

    options.load_plugins(plugin)
    trust = Permissions(allow_pickle, tuple(trust_tasks or ()))
    wanted = with_stops(load_study(study, tasks or (), trusted=trust.tasks), stop_when or [])
    if dtype is not None:
        wanted = wanted.model_copy(update={"compute": dtype.value})
    result = run_study(
        wanted,
        out,
        evaluations=budget,
        seed=seed,
        workers=workers,
        ledger=ledger,
        overwrite=overwrite,
        fork=fork,
        device=device,
        where=str(study),
        trust=trust,
    )
    page = _report(result.out, trust, renew=not result.resumed)
    if json_output:
        options.print_json(
            {
                "out": str(out),
                "winner": str(result.winner),
                "report": str(page),
                "finished_before": result.resumed,
                **result.best,
            }
        )
    else:
        _print_table(result.best, result.winner, page)


def _report(out: Path, trust: Permissions, *, renew: bool) -> Path:
    page = out / "report.html"
    if renew or not page.is_file():
        from genepool import progress
        from genepool.report import collect_study, write_report

        with progress.bar("drawing the report"):
            data = collect_study(out, trusted=trust.tasks)
            write_report(data, page)
        for notice in data.notices:
            progress.message(notice)
    return page


def _print_table(best: dict[str, Any], winner: Path, page: Path) -> None:
    tasks = list(best["test"])
    table = tables.TextTable("test split", tasks)
    for row in best["models"]:
        cells = [f"{s['mean']:.3f}\n{s['lo']:.2f} {s['hi']:.2f}" for s in (row["test"][task] for task in tasks)]
        table.add_row(row["name"], *cells)
    if "ensemble" in best:
        vote = best["ensemble"]["test"]
        cells = [f"{s['mean']:.3f}\n{s['lo']:.2f} {s['hi']:.2f}" if s else "-" for s in (vote.get(t) for t in tasks)]
        table.add_row(f"the best {len(best['ensemble']['members'])}, by vote", *cells)
    tables.show(table)
    curse = best.get("curse", {})
    if "searched" in curse:
        fresh = f", {curse['fresh']:.4f} on validation examples the search did not use" if "fresh" in curse else ""
        tables.print_text(
            f"the winner's fitness: {curse['searched']:.4f} in the search{fresh}, {curse['test']:.4f} on test",
        )
    tables.print_text(
        f"best of {best['evaluations']} candidates, fitness {best['fitness']:.4f} on validation; written to {winner}\n"
        f"report: {page}",
    )
