"""`genepool compare`: what a new model gained and lost against an old one, how surely, and whether gates hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.measure import Comparison, GateResult
    from genepool.report.flips import ShownFlip
    from genepool.tasks import Ledger, OutcomeTable, Pairs

    _Judged = tuple[Comparison, Sequence[GateResult]]

PANEL = options.Panel.measuring


def compare(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="The model in use: a folder, a hub name, BASE+SKILL, or one on record.")],
    new: Annotated[
        list[str], typer.Argument(help="The models that may replace it; each is compared with the old one.")
    ],
    tasks: Annotated[
        Path | None,
        typer.Option(
            help="Use the tasks of this folder, task folder, file or lm-eval:NAME; by default what the ledger holds."
        ),
    ] = None,
    task: options.TaskOption = None,
    split: options.SplitOption = "test",
    gate: options.GateOption = None,
    out: options.PagesOption = None,
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
    batch_size: options.BatchSizeOption = 128,
    outputs: Annotated[
        bool, typer.Option(help="Keep what models write, to show it and to tell mistakes apart.")
    ] = True,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: options.BootstrapSeedOption = 0,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what a new model gained and lost on each task, and check it against gates.

    Differences are paired: both models answer the same examples. P-values are exact (McNemar) where answers are right
    or wrong, and are adjusted for all tasks and models of the call (Holm).

    [bold]Examples[/bold]

        genepool compare base/ merged/ --tasks tasks/

        genepool compare v1/ v2/ --tasks tasks/ --gate gates.yaml --out page.html

        genepool compare org/old org/new --ledger imported.sqlite

    The last command asks no model. It compares the outcomes of both models in the ledger, such as samples that
    `genepool outcomes import` read from lm-eval's logs. A gates file:

        gates:
          - {task: each, measure: difference, at_least: -0.02}
          - {task: mean, measure: negative_flips, at_most: 0.05}
    """
    options.begin(quiet)
    options.refuse_own_input(out, old, new, tasks, gate, ledger, plugin, trust_tasks)
    options.load_plugins(plugin)
    asking_only = ("split", "limit", "batch_size", "outputs", "device", "dtype", "allow_pickle")
    options.only_with(context, tasks is not None, "--tasks", *asking_only)
    from genepool import measure
    from genepool.tasks import Ledger, evaluate, load_tasks

    gates = measure.load_gates(gate) if gate is not None else []
    pages = out or []
    for path in pages:
        options.check_page(path, overwrite)
    with Ledger(ledger) as book:
        if tasks is None:
            paired = _on_record(book, old, new, task)
        else:
            asked = load_tasks(tasks, task, trusted=trust_tasks or ())
            measure.check_gated_tasks(gates, [one.name for one in asked], gate or "")
            paired = _asked(
                evaluate(
                    [old, *new],
                    asked,
                    split=split,
                    ledger=book,
                    limit=limit,
                    batch_size=batch_size,
                    device=device,
                    dtype=dtype,
                    keep_outputs=outputs,
                    allow_pickle=allow_pickle,
                )
            )
        comparisons = measure.compare_many(paired.old, paired.pairs, seed=seed)
        judged = [(one, measure.check_gates(gates, one, gate or "")) for one in comparisons]
        if pages:
            facts = {"tasks": "those on record" if tasks is None else str(tasks), "ledger": str(book.path)}
            facts |= {} if tasks is None else {"split": split}
            _write_pages(pages, judged, paired, {**facts, "seed of the bootstrap": str(seed)}, overwrite)
    _tell(judged, pages, json_output)
    _check(gate, [result for _, results in judged for result in results])


class _Paired(NamedTuple):
    """What is compared: the old model's name and, of each new one, its pairs and how its flips are read."""

    old: str
    pairs: dict[str, Sequence[Pairs]]
    flips: dict[str, Callable[[], tuple[ShownFlip, ...]]]


def _asked(table: OutcomeTable) -> _Paired:
    from genepool.report.flips import flips_of

    name, *others = table.models
    pairs: dict[str, Sequence[Pairs]] = {other: table.pairs(name, other) for other in others}
    return _Paired(name, pairs, {other: partial(flips_of, table, name, other) for other in others})


def _on_record(ledger: Ledger, old: str, new: Sequence[str], names: Sequence[str] | None) -> _Paired:
    from genepool.report.flips import flips_on_record
    from genepool.tasks.recorded_pairs import recorded_pairs, recorded_tasks

    before = ledger.model(old)
    found = _Paired(before.name, {}, {})
    for model in map(ledger.model, new):
        known = recorded_tasks(ledger, before, model, names)
        taken = model.name in (*found.pairs, before.name)
        label = f"{model.name} ({model.fingerprint[:8]})" if taken else model.name
        found.pairs[label] = recorded_pairs(ledger, before, model, known)
        found.flips[label] = partial(flips_on_record, ledger, before, model, known)
    return found


def _write_pages(
    pages: Sequence[Path], judged: Sequence[_Judged], paired: _Paired, facts: dict[str, str], overwrite: bool
) -> None:
    from genepool.report.comparison_page import Compared, write_comparison

    compared = [Compared(one, tuple(results), paired.flips[one.new]()) for one, results in judged]
    for path in pages:
        from importlib.metadata import version

        write_comparison(compared, {**facts, "genepool": version("genepool")}, path, overwrite=overwrite)


def _tell(judged: Sequence[_Judged], pages: Sequence[Path], json_output: bool) -> None:
    from genepool import progress

    if json_output:
        told = [
            {**options.with_old_keys(one.to_dict()), "gates": [options.with_old_keys(r.to_dict()) for r in results]}
            for one, results in judged
        ]
        passed = all(result.passed for _, results in judged for result in results)
        options.print_json({"comparisons": told, "passed": passed, "pages": [str(path) for path in pages]})
    else:
        for one, results in judged:
            _show(one, results)
    for notice in dict.fromkeys(notice for one, _ in judged for notice in one.notices):
        progress.message(notice)
    for path in pages:
        progress.message(f"the page: {path}")


def _check(gate: Path | None, results: Sequence[GateResult]) -> None:
    from genepool.errors import CheckFailed

    failed = [result for result in results if not result.passed]
    if failed:
        undecided = sum(result.undecided for result in failed)
        fix = f"{undecided} may hold: more examples would tell" if undecided else ""
        raise CheckFailed(f"{gate}: {len(failed)} of {len(results)} gates do not hold. {fix}".strip())


def _show(comparison: Comparison, results: Sequence[GateResult]) -> None:
    table = tables.TextTable("task", ["n", "old", "new", "difference", "95%", "gained", "lost", "kept", "p", ""])
    for row in comparison.tasks:
        matrix, kept = row.compatibility.matrix, row.compatibility.kept
        table.add_row(
            row.task,
            f"{row.n:,}",
            f"{row.old.mean:.3f}",
            f"{row.new.mean:.3f}",
            f"{row.difference.difference:+.3f}",
            f"{row.difference.lo:+.3f} {row.difference.hi:+.3f}",
            f"{matrix.gained:,}",
            f"{matrix.lost:,}",
            "" if kept is None else f"{kept.mean:.3f}",
            f"{row.p:.2g}",
            row.verdict,
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
    tables.show(table)
    if results:
        gates = tables.TextTable("gate", ["task", "value", "95%", ""])
        for result in results:
            value = result.value
            word = "holds" if result.passed else "undecided" if result.undecided else "FAILS"
            shown = ("", "") if value is None else (f"{value.mean:+.3f}", f"{value.lo:+.3f} {value.hi:+.3f}")
            gates.add_row(result.limit, result.task, *shown, word)
        tables.show(gates)
