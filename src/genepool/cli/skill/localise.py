"""`genepool skill localise`: the fewest changed entries that keep what a skill is good for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genepool.cli import options, tables
from genepool.cli.skill.common import (
    By,
    DtypeOption,
    FormName,
    OutOption,
    SkillArgument,
    form_of,
    open_skill,
    print_written,
)

if TYPE_CHECKING:
    from genepool.weights import Change


def localise(
    context: typer.Context,
    skill: SkillArgument,
    out: OutOption,
    base: Annotated[str, typer.Option(help="Name the model the skill is relative to.")],
    tasks: Annotated[Path, typer.Option(help="Keep the gain on this task: a task folder or a file of examples.")],
    by: Annotated[
        By, typer.Option(help="Order entries by magnitude, or by scores learned on the examples (graft).")
    ] = By.magnitude,
    keep: Annotated[float, typer.Option(help="Keep this share of the gain over the base.")] = 0.95,
    steps: Annotated[
        int, typer.Option(help="Learn the scores in N passes over the examples; only with --by graft.")
    ] = 100,
    split: options.SplitOption = "valid",
    limit: Annotated[int, typer.Option(help="Use the first N examples of the task.")] = 256,
    dtype: DtypeOption = None,
    device: options.DeviceOption = "cpu",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Find the fewest changed entries that keep a skill's gain on a task, and write those.

    [bold]Examples[/bold]

        genepool skill localise reverse.safetensors --base base/ --tasks tasks/reverse --out where.safetensors

        genepool skill localise tuned/ --base base/ --tasks tasks/reverse --by graft --out grafted.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, skill, base, tasks, plugin, trust_tasks)
    options.load_plugins(plugin)
    options.only_with(context, by is By.graft, "--by graft", "steps")
    from genepool.errors import InputError
    from genepool.skills import Graft, MaskScorer, TopK, smallest
    from genepool.staging import check_file
    from genepool.tasks import LanguageModel, load_tasks, open_model
    from genepool.tasks.models import load_as
    from genepool.training import encode_examples
    from genepool.weights import store

    check_file(out, overwrite=overwrite)
    changes = open_skill(skill, base, allow_pickle)
    assert changes.base is not None
    found = load_tasks(tasks, trusted=trust_tasks or ())
    if len(found) != 1:
        raise InputError(f"got {len(found)} tasks, expected one", where=tasks, fix="Name one of them")
    if steps < 1 or limit < 1:
        raise InputError(
            f"must be at least 1, got {min(steps, limit)}", where="--steps, --limit", fix="Give larger numbers"
        )
    model = load_as(LanguageModel, open_model(changes.base), "localising", device=device)
    bench = MaskScorer(model, changes, encode_examples(model, list(found[0].examples(split))[:limit], found[0]))
    scores = bench.learn(changes, steps=steps) if by is By.graft else None

    def at(density: float) -> Change:
        return TopK(changes, density) if scores is None else Graft(changes, scores, density)

    left = smallest(changes, at, bench.score, bench.score(None), keep=keep)
    settings = {"tasks": str(tasks), "by": by.value, "keep": keep, "split": split, "limit": limit}
    written = store(left.changes, out, form_of(FormName.sparse, dtype), "localise", settings, overwrite=overwrite)
    more = {"density": left.density, "score": left.score, "full": left.full, "base_score": left.base}
    if not json_output:
        tables.print_text(
            f"{left.density:.3%} of the changed entries: {left.score:.3f} on {found[0].name}, {left.full:.3f} with all "
            f"of them, {left.base:.3f} with none"
        )
    print_written(written, changes, json_output, more)
