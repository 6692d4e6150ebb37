"""`genepool profile`: what a model is good at, and how far its confidence can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.common import ask

if TYPE_CHECKING:
    from genepool.measure import Profile

PANEL = options.Panel.measuring


def profile(
    models: options.ModelsArgument,
    tasks: options.TasksOption,
    task: options.TaskOption = None,
    split: options.SplitOption = "test",
    risk: Annotated[float, typer.Option(help="Set the maximum error rate among the answers kept.")] = 0.1,
    out: options.PagesOption = None,
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
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
    """Show a model's scores by task and by tag, and how far its confidence can be trusted.

    Calibration asks whether the model is right as often as it is sure. Abstention asks how many answers are wrong if
    the model leaves out the least sure ones, and from which confidence on wrong answers stay under --risk.

    [bold]Examples[/bold]

        genepool profile merged/ --tasks tasks/

        genepool profile base/ merged/ --tasks tasks/ --out profile.html --out card.md

        genepool profile org/model --tasks lm-eval:arc_easy,hellaswag --json
    """
    options.begin(quiet)
    options.refuse_own_input(out, models, tasks, ledger, plugin, trust_tasks)
    options.load_plugins(plugin)
    from genepool.errors import InputError

    if not 0 < risk < 1:
        raise InputError(f"must lie between 0 and 1, got {risk}", where="--risk", fix="Give another share")
    for path in out or []:
        options.check_page(path, overwrite)
    from genepool import measure, progress
    from genepool.report.profile_page import write_profile

    table = ask(models, tasks, task, split, ledger, limit, device, dtype, trust_tasks, allow_pickle)
    profiles = [measure.profile(table, model, risk=risk, seed=seed) for model in table.models]
    from importlib.metadata import version

    facts = {"tasks": str(tasks), "split": split, "seed of the bootstrap": str(seed), "genepool": version("genepool")}
    facts |= {f"fingerprint of {one.model}": one.fingerprint for one in profiles}
    for path in out or []:
        write_profile(profiles, facts, path, overwrite=overwrite)
    if json_output:
        options.print_json(
            {
                "profiles": [options.with_old_keys(one.to_dict()) for one in profiles],
                "pages": [str(path) for path in out or []],
            }
        )
    else:
        for one in profiles:
            _show(one)
    for notice in dict.fromkeys(notice for one in profiles for notice in one.notices):
        progress.message(notice)
    for path in out or []:
        progress.message(f"the page: {path}")


def _show(one: Profile) -> None:
    from genepool.report.profile_page import summary

    shown = tables.TextTable("task", ["n", "score", "95%"])
    for part in one.tasks:
        shown.add_row(part.name, f"{part.n:,}", f"{part.score.mean:.3f}", f"{part.score.lo:.3f} {part.score.hi:.3f}")
    if one.tags:
        shown.add_section()
        for part in one.tags:
            ends = f"{part.score.lo:.3f} {part.score.hi:.3f}"
            shown.add_row(f"tag: {part.name}", f"{part.n:,}", f"{part.score.mean:.3f}", ends)
    shown.add_section()
    shown.add_row("mean", f"{one.n:,}", f"{one.mean.mean:.3f}", f"{one.mean.lo:.3f} {one.mean.hi:.3f}")
    shown.title = one.model
    tables.show(shown)
    if one.trust:
        heads = ["n", "sure", "right", "ECE", "by chance", "Brier", "AUROC", "answer from", "answers"]
        trust = tables.TextTable("confidence", heads)
        for of in one.trust:
            found, kept, auroc = of.calibration, of.guarantee, of.abstention.auroc
            numbers = ["–"] * 5
            if found is not None:
                values = (found.confidence, found.right.mean, found.ece.mean, found.by_chance, found.brier.mean)
                numbers = [f"{value:.3f}" for value in values]
            last = "–" if auroc is None else f"{auroc:.3f}"
            vouched = ("–", "–") if kept is None else (f"{kept.threshold:.3f}", f"{kept.coverage:.0%}")
            trust.add_row(of.task or "all answers", f"{of.abstention.n:,}", *numbers, last, *vouched)
        trust.note = f"answer from: the confidence from which on wrong answers stay under {one.risk:.0%}"
        tables.show(trust)
    tables.print_text(summary(one))
