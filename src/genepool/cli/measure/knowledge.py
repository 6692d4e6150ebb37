"""`genepool measure knowledge`: what every two models know beside each other."""

from __future__ import annotations

from genepool.cli import options, tables
from genepool.cli.common import ask
from genepool.cli.measure import common


def knowledge(
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
    """Show which examples only one of each two models solves: their complementary knowledge.

    The gain is the score of an oracle that always picks the right model of the two, minus the better model's score.

    [bold]Examples[/bold]

        genepool measure knowledge full/reverse full/upper merged/ --tasks tasks/

        genepool measure knowledge one/ other/ --tasks lm-eval:arc_easy --json
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    from genepool import measure

    table = ask(models, tasks, task, split, ledger, limit, device, dtype, trust_tasks, allow_pickle)
    found = measure.complementary_knowledge(table, seed=seed)
    if json_output:
        pairs = [
            {"student": student, "teacher": teacher, "task": name, **both.to_dict()}
            for (student, teacher, name), both in found.items()
        ]
        options.print_json({"pairs": pairs})
        return
    for name in table.tasks:
        shown = tables.TextTable("student, teacher", ["student", "teacher", "only teacher", "only student", "gain"])
        for (student, teacher, of), both in found.items():
            # A pair's other order says the same with the sides exchanged.
            if of == name and table.models.index(student) < table.models.index(teacher):
                cells = [common.interval(one) for one in (both.student, both.teacher, both.rho_pos, both.rho_neg)]
                shown.add_row(f"{student}\n{teacher}", *cells, common.difference(both.gain))
        shown.title = name
        tables.show(shown)
