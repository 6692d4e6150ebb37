"""`genepool compare`: what a new model gained and lost against an old one, how surely, and whether gates hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options

if TYPE_CHECKING:
    from genepool.measure import Comparison, GateResult
    from genepool.report.data import Flip
    from genepool.tasks import Ledger, Pairs


def compare(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="The model in use: a folder, hub model, BASE+SKILL; or one on record.")],
    new: Annotated[list[str], typer.Argument(help="What may replace it; several are compared with the same old one.")],
    tasks: Annotated[
        Path | None,
        typer.Option(help="Folder of tasks, one task folder, or one file. Without it, what the ledger holds counts."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given several times.")] = None,
    split: Annotated[str, typer.Option(help="Which examples: train, valid or test.")] = "test",
    gate: Annotated[Path | None, typer.Option(help="YAML file of limits; exit code 1 when one does not hold.")] = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="Also write a page (.html) or Markdown (.md); may be given several times.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="Where outcomes are kept; $GENEPOOL_LEDGER when absent.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many examples of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per batch.")] = 128,
    outputs: Annotated[bool, typer.Option(help="Keep what models write, to show it and tell mistakes apart.")] = True,
    device: Annotated[str, typer.Option(help="Where the models compute, such as cpu or cuda.")] = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 0,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what a new model gained and lost, ability by ability, and check it against gates.

    Differences are paired: both models answer the same examples. P-values are exact (McNemar) where answers are right
    or wrong, and adjusted for all abilities and models of the call (Holm).

    [bold]Examples[/bold]

        genepool compare base/ merged/ --tasks tasks/

        genepool compare v1/ v2/ --tasks tasks/ --gate gates.yaml --out page.html

        genepool compare org/old org/new --ledger imported.sqlite

    The last asks no model: it compares what the ledger holds of both, such as samples that `genepool outcomes import`
    read from lm-eval's logs. A gates file:

        gates:
          - {ability: each, measure: difference, at_least: -0.02}
          - {ability: mean, measure: negative_flips, at_most: 0.05}
    """
    options.begin(quiet)
    asking_only = ("split", "limit", "batch_size", "outputs", "device", "allow_pickle")
    options.only_with(context, tasks is not None, "--tasks", *asking_only)
    from genepool import measure, progress
    from genepool.errors import CheckFailed
    from genepool.report.comparison_page import Compared, write_comparison
    from genepool.report.outcomes import flips_of
    from genepool.tasks import Ledger, evaluate, load_tasks

    gates = measure.load_gates(gate) if gate is not None else []
    for path in out or []:
        options.check_page(path, overwrite)
    with Ledger(ledger) as book:
        if tasks is None:
            name, pairs, flips = _on_record(book, old, new, task)
        else:
            asking: dict[str, Any] = {
                "split": split,
                "ledger": book,
                "limit": limit,
                "batch_size": batch_size,
                "device": device,
            }
            table = evaluate(
                [old, *new],
                load_tasks(tasks, task, trusted=trust_tasks or ()),
                keep_outputs=outputs,
                allow_pickle=allow_pickle,
                **asking,
            )
            name, *others = table.models
            pairs = {other: table.pairs(name, other) for other in others}
            flips = {other: partial(flips_of, table, name, other) for other in others}
        comparisons = measure.compare_many(name, pairs, seed=seed)
        results = [measure.check_gates(gates, comparison, gate or "") for comparison in comparisons]
        if out:
            compared = [
                Compared(one, tuple(judged), flips[one.new]()) for one, judged in zip(comparisons, results, strict=True)
            ]
            facts = {"tasks": "those on record" if tasks is None else str(tasks), "ledger": str(book.path)}
            facts |= {} if tasks is None else {"split": split}
            facts |= {"seed of the bootstrap": str(seed), "genepool": version("genepool")}
            for path in out:
                write_comparison(compared, facts, path, overwrite=overwrite)
    failed = [result for judged in results for result in judged if not result.passed]
    if json_output:
        told = [
            {**comparison.as_json(), "gates": [result.as_json() for result in judged]}
            for comparison, judged in zip(comparisons, results, strict=True)
        ]
        options.print_json({"comparisons": told, "passed": not failed, "pages": [str(path) for path in out or []]})
    else:
        for comparison, judged in zip(comparisons, results, strict=True):
            _show(comparison, judged)
    for notice in dict.fromkeys(notice for comparison in comparisons for notice in comparison.notices):
        progress.say(notice)
    for path in out or []:
        progress.say(f"the page: {path}")
    if failed:
        undecided = sum(result.undecided for result in failed)
        fix = f"{undecided} may hold: more examples would tell" if undecided else ""
        raise CheckFailed(f"{gate}: {len(failed)} of {sum(map(len, results))} gates do not hold. {fix}".strip())


def _on_record(
    ledger: Ledger, old: str, new: Sequence[str], names: Sequence[str] | None
) -> tuple[str, dict[str, Sequence[Pairs]], dict[str, Callable[[], tuple[Flip, ...]]]]:
    """What the ledger holds of every new model beside the old one, the old one's name first."""
    from genepool.report.outcomes import flips_on_record
    from genepool.tasks.recorded_pairs import recorded_pairs, recorded_tasks

    before = ledger.model(old)
    pairs: dict[str, Sequence[Pairs]] = {}
    flips: dict[str, Callable[[], tuple[Flip, ...]]] = {}
    for model in map(ledger.model, new):
        known = recorded_tasks(ledger, before, model, names)
        label = model.name if model.name not in (*pairs, before.name) else f"{model.name} ({model.fingerprint[:8]})"
        pairs[label] = recorded_pairs(ledger, before, model, known)
        flips[label] = partial(flips_on_record, ledger, before, model, known)
    return before.name, pairs, flips


def _show(comparison: Comparison, results: Sequence[GateResult]) -> None:
    table = options.plain_table("ability", ["n", "old", "new", "difference", "95%", "gained", "lost", "kept", "p", ""])
    for ability in comparison.abilities:
        matrix, kept = ability.compatibility.matrix, ability.compatibility.kept
        table.add_row(
            ability.ability,
            f"{ability.n:,}",
            f"{ability.old.mean:.3f}",
            f"{ability.new.mean:.3f}",
            f"{ability.difference.difference:+.3f}",
            f"{ability.difference.lo:+.3f} {ability.difference.hi:+.3f}",
            f"{matrix.gained:,}",
            f"{matrix.lost:,}",
            "" if kept is None else f"{kept.mean:.3f}",
            f"{ability.p:.2g}",
            ability.verdict,
        )
    difference = comparison.difference
    table.add_section()
    table.add_row(
        "mean",
        f"{comparison.matrix.n:,}",
        f"{comparison.mean_old.mean:.3f}",
        f"{comparison.mean_new.mean:.3f}",
        f"{difference.difference:+.3f}",
        f"{difference.lo:+.3f} {difference.hi:+.3f}",
        f"{comparison.matrix.gained:,}",
        f"{comparison.matrix.lost:,}",
    )
    table.title = f"{comparison.old} → {comparison.new}"
    options.console().print(table)
    if results:
        gates = options.plain_table("gate", ["ability", "value", "95%", ""])
        for result in results:
            value = result.value
            word = "holds" if result.passed else "undecided" if result.undecided else "FAILS"
            shown = ("", "") if value is None else (f"{value.mean:+.3f}", f"{value.lo:+.3f} {value.hi:+.3f}")
            gates.add_row(result.limit, result.ability, *shown, word)
        options.console().print(gates)
