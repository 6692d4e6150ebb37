"""`genepool measure mix`: how well a model combines skills, told from the tags of examples."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.common import ask
from genepool.cli.measure import common


def mix(
    models: options.ModelsArgument,
    tasks: options.TasksOption,
    among: Annotated[
        list[str] | None, typer.Option(help="Count only this tag as a skill; repeatable; by default all tags.")
    ] = None,
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
    """Show how well skills combine: success on examples of k skills against the product of single skills.

    The tags of an example are the skills it needs. Pairs of skills also go through the weakest-link test: is the score
    on both the score of the weaker skill?

    [bold]Examples[/bold]

        genepool measure mix merged/ --tasks mixed-tasks/

        genepool measure mix full/* merged/ --tasks mixed-tasks/ --among reverse --among upper --json
    """
    options.begin(quiet)
    options.load_plugins(plugin)
    from genepool import measure
    from genepool.errors import InputError

    table = ask(models, tasks, task, split, ledger, limit, device, dtype, trust_tasks, allow_pickle)
    skills = [example.tags for name in table.tasks for example in table.examples(name)]
    if not any(skills):
        raise InputError("no example has tags", where=tasks, fix="Tag examples with the skills they need")
    mixes = {}
    for model in table.models:
        scores = [score for name in table.tasks for score in table.scores(model, name)]
        mixes[model] = measure.skill_mix(skills, scores, among=among, seed=seed)
    rows = [
        measure.CrossCapability(found.singles[a].mean, found.singles[b].mean, mixed.success.mean)
        for found in mixes.values()
        for mixed in found.combinations
        if mixed.k == 2
        for a, b in [mixed.skills]
        if a in found.singles and b in found.singles
    ]
    link = measure.weakest_link(rows) if rows else None
    if json_output:
        told = [{"model": model, **found.to_dict()} for model, found in mixes.items()]
        options.print_json({"models": told, "weakest_link": None if link is None else link.to_dict()})
        return
    for model, found in mixes.items():
        shown = tables.TextTable("skills", ["k", "n", "success", "product", "difference"])
        for skill, alone in found.singles.items():
            shown.add_row(skill, "1", "", common.interval(alone), "", "")
        shown.add_section()
        for mixed in (*found.combinations, *found.by_k):
            expected = "–" if mixed.expected is None else f"{mixed.expected:.3f}"
            label = " + ".join(mixed.skills) or f"all of {mixed.k}"
            success, moved = common.interval(mixed.success), common.difference(mixed.difference)
            shown.add_row(label, str(mixed.k), f"{mixed.n:,}", success, expected, moved)
        shown.title = model
        tables.show(shown)
    if link is not None:
        share = "none can be told" if link.weaker is None else f"{link.weaker.mean:.0%} are nearer the weaker skill"
        tables.print_text(
            f"weakest link: of {len(rows)} pairs {share} or below both ({link.below} below both, {link.above} above "
            f"both), sign test p = {link.p:.2g}"
        )
