"""`genepool measure consistency`: whether a model answers alike however a question is put."""

from __future__ import annotations

from genepool.cli import options, tables
from genepool.cli.common import ask
from genepool.cli.measure import common


def consistency(
    models: options.ModelsArgument,
    tasks: options.TasksOption,
    task: options.TaskOption = None,
    split: options.SplitOption = "test",
    ledger: options.LedgerOption = None,
    limit: options.LimitOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: options.BootstrapSeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show whether a model gives the same answer when a question is worded differently.

    Each task is a variation: another template, another wording. Examples with the same id are the same question.

    [bold]Examples[/bold]

        genepool measure consistency merged/ --tasks wordings/ --task plain --task polite --task terse
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    from genepool import measure

    table = ask(models, tasks, task, split, ledger, limit, device, dtype, trust_tasks, allow_pickle)
    found = {model: measure.consistency_of(table, model, seed=seed) for model in table.models}
    if json_output:
        options.print_json({"models": [{"model": model, **one.to_dict()} for model, one in found.items()]})
        return
    heads = [*table.tasks, "spread", "right in all", "in any", "alike", "agreement", "kappa"]
    shown = tables.TextTable("model", heads)
    for model, one in found.items():
        means = map(common.interval, one.right)
        rest = map(common.interval, (one.robust, one.any, one.alike, one.agreement))
        kappa = "–" if one.kappa is None else f"{one.kappa:.3f}"
        shown.add_row(model, *means, common.difference(one.spread), *rest, kappa)
    tables.show(shown)
