"""`genepool adapt`: let a model adapt along a stream, and say whether that was better than doing nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.adaptation import AdaptationResult

PANEL = options.Panel.training


def adapt(
    model: Annotated[str | None, typer.Argument(help=options.MODEL)] = None,
    stream: Annotated[
        Path | None, typer.Option("--stream", metavar="DIR", help="Read the examples of this stream, in order.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="NAME", help="Use this adapter, such as tent; see --list.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the run to this folder; a run that was stopped continues.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set an option of the adapter; repeatable."),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            "--order",
            help="Take the examples file, shuffled, correlated, gradual, reset or mixed; the stream says which.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            metavar="R",
            help="Repeat the stream R times; as it says itself by default, else 15.",
        ),
    ] = None,
    labels_late: Annotated[
        int | None,
        typer.Option(
            "--labels-late",
            min=0,
            metavar="N",
            help="Show the labels of a batch to the adapter N batches later.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            "--window",
            min=2,
            metavar="W",
            help="Learn from the last W examples together, where a batch is one example.",
        ),
    ] = None,
    clean: Annotated[
        str | None,
        typer.Option("--clean", metavar="DIR", help="Show what is forgotten of these tasks, or of this stream."),
    ] = None,
    on_collapse: Annotated[
        str,
        typer.Option(
            "--on-collapse", help="Choose what follows a collapse of the predictions: stop, reset or continue."
        ),
    ] = "continue",
    gate: options.GateOption = None,
    seed: options.SeedOption = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Compute with N threads.")
    ] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    list_: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Print the adapters and their options, and stop.",
        ),
    ] = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Let a model adapt along a stream, beside itself unchanged, and say whether that was better.

    [bold]Examples[/bold]

        genepool adapt bed/base --stream bed/streams/mixed --adapter tent --out run

        genepool adapt bed/base --stream bed/streams/mixed --adapter eata --set rate=1e-3 --rounds 3 --out run

        genepool adapt bed/base --stream bed/streams/mixed --adapter wisdom --clean bed/tasks/generic --out run

        genepool adapt bed/base --stream bed/streams/mixed --adapter tent --gate gates.yaml --out run

        genepool adapt series/base --stream series/streams/drift --adapter petsa --out run

        genepool adapt --list

    Every prediction is on record before anything is learned from its batch. You may kill the command at any time: the
    same command continues and gives the same bits. With --gate, worse than doing nothing exits with 1 too.

    DIR gets skill.safetensors, stream.sqlite, adapt.json and report.html.
    """
    options.begin(quiet)
    if list_:
        _list(json_output)
        return
    if overwrite and out is not None:
        options.refuse_own_input(out, model, stream, clean, gate, trust_tasks)
    from genepool.adaptation import Adapting, find_adapter, run_adaptation
    from genepool.report.adaptation_page import write_adaptation

    named = {"MODEL": model, "--stream": stream, "--adapter": adapter, "--out": out}
    for name, value in named.items():
        if value is None:
            raise _missing(name)
    assert model
    assert stream
    assert adapter
    assert out
    recipe = Adapting(
        model,
        str(stream),
        adapter,
        options.settings(set_ or [], type(find_adapter(adapter)).Options),
        order,
        rounds,
        labels_late,
        window,
        clean,
        on_collapse,
        seed,
        dtype,
        threads,
    )
    result = run_adaptation(
        recipe,
        out,
        device=device,
        allow_pickle=allow_pickle,
        trusted=trust_tasks or (),
        overwrite=overwrite,
        gate=gate,
        draw=write_adaptation,
    )
    page = out / "report.html"
    if json_output:
        told = {"out": str(out), "report": str(page), "finished_before": result.resumed, **result.told}
        options.print_json(told)
    else:
        _show(result, page)
    if gate is not None:
        _check(gate, result)


def _missing(name: str) -> Exception:
    from genepool.errors import InputError

    fix = "See `genepool adapt --help`; `genepool adapt --list` prints the adapters"
    return InputError(f"Missing {'argument' if name.isupper() else 'option'} '{name}'", fix=fix)


def _check(gate: Path, result: AdaptationResult) -> None:
    """What a gate says of the run.

    Raises:
        CheckFailed: it was worse than doing nothing, or a gate does not hold.
    """
    from genepool import measure
    from genepool.adaptation.results import WORSE
    from genepool.errors import CheckFailed

    if result.told["verdict"] == WORSE:
        raise CheckFailed(f"{result.out}: {WORSE}")
    gates = measure.load_gates(gate)
    if result.comparison is None:
        raise CheckFailed(f"{gate}: the stream has no labels, so no gate can hold")
    judged = measure.check_gates(gates, result.comparison, gate)
    if failed := [one for one in judged if not one.passed]:
        raise CheckFailed(f"{gate}: {len(failed)} of {len(judged)} gates do not hold")


def _show(result: AdaptationResult, page: Path) -> None:
    told = result.told
    table = tables.TextTable("round", ["n", "frozen", "adapted", "difference", "95%", ""])
    for row in told["history"]:
        if (difference := row["difference"]) is not None:
            table.add_row(
                f"{row['round']:,}",
                f"{row['n']:,}",
                f"{row['frozen']:.3f}",
                f"{row['adapted']:.3f}",
                f"{difference['mean']:+.3f}",
                f"{difference['lo']:+.3f} {difference['hi']:+.3f}",
                row["verdict"],
            )
    tables.show(table)
    for event in told["events"]:
        what = "; ".join(part for part in (event["alarm"], event["reset"] and f"reset {event['reset']}") if part)
        tables.print_text(f"round {event['round']}, batch {event['batch']:,}: {what}")
    if error := told.get("error"):
        parts = {"adapted": error["adapted"], "frozen": error["frozen"], "forecast again": error["late"]}
        given = ", ".join(f"{value:.4g} {name}" for name, value in parts.items() if value is not None)
        tables.print_text(f"mean squared error: {given}")
    if told["stopped"]:
        tables.print_text(f"the watch stopped the run after {told['batches']:,} batches")
    if told["clean_after"] is not None:
        tables.print_text(f"clean: {told['clean_before']:.3f} before, {told['clean_after']:.3f} after")
    skill = str(result.out / told["skill"]) if told["skill"] else told.get("no_skill") or "none"
    tables.print_text(f"the verdict: {told['verdict'] or 'unknown, since there are no labels'}")
    tables.print_text(f"the skill: {skill}\nthe page: {page}")


def _list(json_output: bool) -> None:
    """The adapters and their options."""
    from genepool.adaptation import all_adapters, described_adapter

    told: list[dict[str, Any]] = [described_adapter(kind) for kind in all_adapters().values()]
    if json_output:
        options.print_json({"adapters": told})
        return
    table = tables.TextTable("adapter", ["of", "trains", "needs", "options"])
    for one in told:
        given = ", ".join(f"{option['name']}={option['default']}" for option in one["parameters"])
        table.add_row(
            one["name"], " and ".join(one["asks"]), one["trains"], ", ".join(one["needs"]) or "nothing", given
        )
    tables.show(table)
