"""`genepool report`: one HTML page, or Markdown, that shows what a study found, gained, lost and cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options, tables

PANEL = options.Panel.evolution


def report(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="The folder of a study or a run: --out of evolve, train or adapt.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the report to this .html or .md file; by default STUDY/report.html."),
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="Show this study on the same page; repeatable.")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="Read outcomes from this ledger; by default the one the study recorded."),
    ] = None,
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a study, a training or a run on a stream as one HTML page that opens offline, or as Markdown.

    [bold]Examples[/bold]

        genepool report run

        genepool report run --beside run-random --out page.html

        genepool report run --out RESULTS.md

    A study that is running or was stopped is shown as far as it got. The study's own `report.html` is always replaced;
    any other file only with --overwrite.
    """
    options.begin(quiet)
    options.refuse_own_input(out, study, beside, ledger, plugin, trust_tasks)
    options.load_plugins(plugin)
    from genepool import progress

    page = out if out is not None else study / "report.html"
    overwrite = overwrite or out is None
    options.check_page(page, overwrite)
    if (study / "train.json").is_file():
        options.only_with(context, False, "a study", "beside")
        _training(study, page, ledger, trust_tasks or (), overwrite, json_output)
        return
    if (study / "loop.json").is_file():
        options.only_with(context, False, "a study", "beside")
        _loop(study, page, ledger, trust_tasks or (), overwrite, json_output)
        return
    if (study / "adapt.json").is_file():
        options.only_with(context, False, "a study", "beside")
        _adaptation(study, page, overwrite, json_output)
        return
    if (study / "stream.sqlite").is_file():
        from genepool.errors import InputError

        raise InputError("this run is not finished", where=study, fix="Run the same `genepool adapt` again")
    if (study / "record.json").is_file() and (study / "loop.yaml").is_file():
        from genepool.errors import InputError

        raise InputError("this loop is not finished", where=study, fix="Run the same `genepool train` again")
    if (study / "run.sqlite").is_file() and not (study / "study.yaml").is_file():
        from genepool.errors import InputError

        raise InputError("this training is not finished", where=study, fix="Run the same `genepool train` again")
    with progress.bar("reading the study"):
        from genepool.report import collect_study, write_report

        data = collect_study(study, beside=tuple(beside or ()), ledger=ledger, trusted=trust_tasks or ())
        write_report(data, page, overwrite=overwrite)
    for notice in data.notices:
        progress.message(notice)
    if json_output:
        from genepool.report import report_values

        options.print_json({"report": str(page), "bytes": page.stat().st_size, **report_values(data)})
    else:
        tables.print_text(str(page))


def _training(
    run: Path, page: Path, ledger: Path | None, trusted: Sequence[Path], overwrite: bool, json_output: bool
) -> None:
    """The page of a training."""
    from genepool import progress
    from genepool.report.sequence_page import write_sequence
    from genepool.report.training_page import write_training
    from genepool.training import gains_of
    from genepool.training.folder import read_result

    told = read_result(run)
    assert told is not None
    gains = gains_of(run, ledger=ledger, trusted=trusted)
    with progress.bar("drawing the page"):
        write = write_training if told.get("learner") is None else write_sequence
        write(run, told, gains, page, overwrite=overwrite)
    if json_output:
        options.print_json({"report": str(page), "bytes": page.stat().st_size, **told})
    else:
        tables.print_text(str(page))


def _loop(
    run: Path, page: Path, ledger: Path | None, trusted: Sequence[Path], overwrite: bool, json_output: bool
) -> None:
    """The page of a loop of trainings."""
    from genepool import progress
    from genepool.report.loop_page import write_loop
    from genepool.training.loops import loop_gains_of, read_loop_result

    told = read_loop_result(run)
    assert told is not None
    gains = loop_gains_of(run, ledger=ledger, trusted=trusted)
    with progress.bar("drawing the page"):
        write_loop(run, told, gains, page, overwrite=overwrite)
    if json_output:
        options.print_json({"report": str(page), "bytes": page.stat().st_size, **told})
    else:
        tables.print_text(str(page))


def _adaptation(run: Path, page: Path, overwrite: bool, json_output: bool) -> None:
    """The page of a run on a stream."""
    from genepool.adaptation import AdaptationResult, read_adapted
    from genepool.report.adaptation_page import write_adaptation

    told = read_adapted(run)
    assert told is not None
    write_adaptation(AdaptationResult(run, told, None), page, overwrite=overwrite)
    if json_output:
        options.print_json({"report": str(page), "bytes": page.stat().st_size, **told})
    else:
        tables.print_text(str(page))
