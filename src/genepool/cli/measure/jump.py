"""`genepool measure jump`: whether a jump in exact match is the models' or the metric's."""

from __future__ import annotations

from genepool.cli import options, tables
from genepool.cli.common import ask
from genepool.cli.measure import common


def jump(
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
    """Show whether a jump in exact match comes from the models or from the metric.

    It compares exact match with token-level metrics of the same answers. Name at least three models, in order of size
    or of training steps.

    [bold]Examples[/bold]

        genepool measure jump step-100/ step-200/ step-400/ step-800/ --tasks tasks/ --task reverse
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    from genepool.measure.prediction import metric_choice

    table = ask(models, tasks, task, split, ledger, limit, device, dtype, trust_tasks, allow_pickle)
    found = [metric_choice(table, name, seed=seed) for name in table.tasks]
    if json_output:
        options.print_json({"tasks": [one.to_dict() for one in found]})
        return
    for one in found:
        shown = tables.TextTable("metric", [*one.models, "share at the jump"])
        for metric in one.curves:
            share = "–" if metric.share is None else f"{metric.share:.0%}"
            shown.add_row(metric.metric, *map(common.interval, metric.values), share)
        shown.title = one.task
        tables.show(shown)
        gap = one.sharper
        tables.print_text(
            f"{one.task}: between {one.jump[0]} and {one.jump[1]}; exact match has {gap.mean:+.0%} more of its way "
            f"there than right tokens ({gap.lo:+.0%} to {gap.hi:+.0%}): the jump is {one.verdict}"
        )
