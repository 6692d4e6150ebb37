"""What models pass on, know beside each other, and do with several skills at once."""

from __future__ import annotations

from typing import Annotated

import typer

from genepool.cli import options
from genepool.cli.measure import common


def transfer(
    base: Annotated[str, typer.Argument(help="The model all others come from.")],
    models: Annotated[list[str], typer.Argument(help="Fine-tunes and merges of it.")],
    tasks: common.TasksOption,
    trained: Annotated[
        list[str] | None, typer.Option(help="MODEL=TASK: what a model was trained on; may be given several times.")
    ] = None,
    task: common.TaskOption = None,
    split: common.SplitOption = "test",
    ledger: common.LedgerOption = None,
    limit: common.LimitOption = None,
    device: common.DeviceOption = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: common.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what training on one task did to every other: model minus base, paired, with 95% intervals.

    [bold]Examples[/bold]

        genepool measure transfer base/ full/reverse full/upper --tasks tasks/

        genepool measure transfer base/ full/reverse merged/ --tasks tasks/ --trained full/reverse=reverse
    """
    options.begin(quiet)
    from genepool import measure, progress

    table = common.ask([base, *models], tasks, task, split, ledger, limit, device, trust_tasks, allow_pickle)
    own = common.pairs_of(trained, "--trained")
    matrix = measure.transfer_matrix(table, table.models[0], own, seed=seed)
    if json_output:
        options.print_json(matrix.as_json())
        return
    shown = options.plain_table("model", [*matrix.tasks, "elsewhere"])
    for model in matrix.models:
        cells = []
        for name in matrix.tasks:
            mark = " *" if matrix.p[model, name] < measure.ALPHA else ""
            own_task = " °" if own.get(model) == name else ""
            cells.append(common.difference(matrix.cells[model, name]).replace("\n", f"{mark}{own_task}\n", 1))
        shown.add_row(model, *cells, common.difference(matrix.elsewhere.get(model)))
    shown.title = f"difference from {matrix.base}"
    options.console().print(shown)
    marks = f"* surely different, all {len(matrix.cells)} tests together (Holm)"
    progress.say(marks + ("; ° the task it was trained on, not counted elsewhere" if own else ""))


def knowledge(
    models: common.ModelsArgument,
    tasks: common.TasksOption,
    task: common.TaskOption = None,
    split: common.SplitOption = "test",
    ledger: common.LedgerOption = None,
    limit: common.LimitOption = None,
    device: common.DeviceOption = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: common.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what every two models know beside each other: the examples only one of them solves.

    The gain is what an oracle that picks the right one of the two would win over the better of them.

    [bold]Examples[/bold]

        genepool measure knowledge full/reverse full/upper merged/ --tasks tasks/

        genepool measure knowledge one/ other/ --tasks lm-eval:arc_easy --json
    """
    options.begin(quiet)
    from genepool import measure

    table = common.ask(models, tasks, task, split, ledger, limit, device, trust_tasks, allow_pickle)
    found = measure.complementary_knowledge(table, seed=seed)
    if json_output:
        pairs = [
            {"student": student, "teacher": teacher, "task": name, **both.as_json()}
            for (student, teacher, name), both in found.items()
        ]
        options.print_json({"pairs": pairs})
        return
    for name in table.tasks:
        shown = options.plain_table("student, teacher", ["student", "teacher", "only teacher", "only student", "gain"])
        for (student, teacher, of), both in found.items():
            # A pair's other order says the same with the sides exchanged.
            if of == name and table.models.index(student) < table.models.index(teacher):
                cells = [common.interval(one) for one in (both.student, both.teacher, both.rho_pos, both.rho_neg)]
                shown.add_row(f"{student}\n{teacher}", *cells, common.difference(both.gain))
        shown.title = name
        options.console().print(shown)


def mix(
    models: common.ModelsArgument,
    tasks: common.TasksOption,
    among: Annotated[list[str] | None, typer.Option(help="Which tags are skills; all of them when absent.")] = None,
    task: common.TaskOption = None,
    split: common.SplitOption = "test",
    ledger: common.LedgerOption = None,
    limit: common.LimitOption = None,
    device: common.DeviceOption = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: common.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show how well skills combine, from the tags of examples: success of k skills against the product of single ones.

    Examples are tagged with the skills they need. Pairs of skills also go through the weakest-link test: is a model
    that needs both as good as at the weaker of the two?

    [bold]Examples[/bold]

        genepool measure mix merged/ --tasks mixed-tasks/

        genepool measure mix full/* merged/ --tasks mixed-tasks/ --among reverse --among upper --json
    """
    options.begin(quiet)
    from genepool import measure
    from genepool.errors import InputError

    table = common.ask(models, tasks, task, split, ledger, limit, device, trust_tasks, allow_pickle)
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
        told = [{"model": model, **found.as_json()} for model, found in mixes.items()]
        options.print_json({"models": told, "weakest_link": None if link is None else link.as_json()})
        return
    for model, found in mixes.items():
        shown = options.plain_table("skills", ["k", "n", "success", "product", "difference"])
        for skill, alone in found.singles.items():
            shown.add_row(skill, "1", "", common.interval(alone), "", "")
        shown.add_section()
        for mixed in (*found.combinations, *found.by_k):
            expected = "–" if mixed.expected is None else f"{mixed.expected:.3f}"
            label = " + ".join(mixed.skills) or f"all of {mixed.k}"
            success, moved = common.interval(mixed.success), common.difference(mixed.difference)
            shown.add_row(label, str(mixed.k), f"{mixed.n:,}", success, expected, moved)
        shown.title = model
        options.console().print(shown)
    if link is not None:
        share = "none can be told" if link.weaker is None else f"{link.weaker.mean:.0%} are nearer the weaker skill"
        typer.echo(
            f"weakest link: of {len(rows)} pairs {share} or below both ({link.below} below both, {link.above} above "
            f"both), sign test p = {link.p:.2g}"
        )


def consistency(
    models: common.ModelsArgument,
    tasks: common.TasksOption,
    task: common.TaskOption = None,
    split: common.SplitOption = "test",
    ledger: common.LedgerOption = None,
    limit: common.LimitOption = None,
    device: common.DeviceOption = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    seed: common.SeedOption = 0,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show whether a model answers the same questions alike however they are put.

    Each task is a variation: another template, another wording. Examples with the same id are the same question.

    [bold]Examples[/bold]

        genepool measure consistency merged/ --tasks wordings/ --task plain --task polite --task terse
    """
    options.begin(quiet)
    from genepool import measure

    table = common.ask(models, tasks, task, split, ledger, limit, device, trust_tasks, allow_pickle)
    found = {model: measure.consistency_of(table, model, seed=seed) for model in table.models}
    if json_output:
        options.print_json({"models": [{"model": model, **one.as_json()} for model, one in found.items()]})
        return
    heads = [*table.tasks, "spread", "right in all", "in any", "alike", "agreement", "kappa"]
    shown = options.plain_table("model", heads)
    for model, one in found.items():
        means = map(common.interval, one.right)
        rest = map(common.interval, (one.robust, one.any, one.alike, one.agreement))
        kappa = "–" if one.kappa is None else f"{one.kappa:.3f}"
        shown.add_row(model, *means, common.difference(one.spread), *rest, kappa)
    options.console().print(shown)
