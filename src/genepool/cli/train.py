"""`genepool train`: teach a model a task, and say what it gained and what it forgot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.measure import Comparison
    from genepool.training import Training, TrainingResult
    from genepool.training.loops import Loop

# What a recipe file says itself.
_OF_A_RECIPE = (
    "base", "lora", "full", "form", "objective", "sampler", "learner", "set_", "teacher", "steps", "batch",
    "micro_batch", "learning_rate", "every", "patience", "others", "test", "seed", "threads", "dtype", "pack",
    "activation_checkpoints",
)  # fmt: skip


PANEL = options.Panel.training
# What stands before the options of a form of adapter in --set.
_OF_FORM = "form."
# And before those of a sampler.
_OF_SAMPLER = "sampler."
# Keys of a training's file that only the opened training finds an error in. Other errors begin with a path as it was
# typed, which may be a folder called `batch`.
_CHOSEN = re.compile(r"(sampler_options|form_options)(\.\w+)*(:.*)?|options(\.\w+)*|lora\.\w+|batch")


def train(
    context: typer.Context,
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...", help="Task folders or JSONL files; or one file (.yaml) of a training or a loop."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Write the run to this folder; a run that was stopped continues.")],
    base: Annotated[str | None, typer.Option("--base", metavar="MODEL", help="Train this model.")] = None,
    lora: Annotated[
        int | None, typer.Option("--lora", metavar="RANK", min=1, help="Train factors of this rank [8].")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train every tensor: a skill file comes out.")] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--form", metavar="NAME", help="Train this form of adapter, such as hydra; --set form.KEY=VALUE sets it."
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="NAME",
            help="Minimise this in each step, such as dpo, gkd or grpo; likelihood by default.",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            metavar="NAME",
            help="Choose the tasks or examples of each step by this, such as skill_it or less.",
        ),
    ] = None,
    learner: Annotated[
        str | None,
        typer.Option(
            "--learner", metavar="NAME", help="Learn the tasks one after the other in this way, such as replay or ewc."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set an option of the objective or learner; form.KEY and sampler.KEY of those; repeatable.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", metavar="MODEL", help="Use this model as the teacher, whose predictions are learned."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="N", help="Take at most N optimiser steps; 200 by default.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, metavar="N", help="Put N examples into a step; 32 by default.")
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option("--micro-batch", min=1, metavar="N", help="Compute N examples at once, to save memory."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Set the largest learning rate; by default the model's width decides."),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option("--every", min=1, metavar="N", help="Keep the state and validate every N steps; 25 by default."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", min=0, metavar="N", help="Stop after N validations without a lower loss; 0 disables."
        ),
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Put several short examples into one row, to save time.")
    ] = False,
    activation_checkpoints: Annotated[
        bool, typer.Option("--activation-checkpoints", help="Compute activations twice, to save memory.")
    ] = False,
    others: Annotated[
        str | None,
        typer.Option(
            "--others",
            metavar="DIR",
            help="Show what is forgotten of these tasks; by default the folders beside the task.",
        ),
    ] = None,
    test: Annotated[
        int | None, typer.Option("--test", min=1, metavar="N", help="Use the first N test examples of each task.")
    ] = None,
    gate: options.GateOption = None,
    fork: Annotated[
        Path | None, typer.Option("--fork", metavar="DIR", help="Start from what the training in this folder learned.")
    ] = None,
    ledger: options.LedgerOption = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            callback=options.checked_seed,
            help="Set the seed of the order of examples and of every draw.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Compute with N threads.")
    ] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Fine-tune a model on tasks, and show what it gained and what it forgot.

    [bold]Examples[/bold]

        genepool train tasks/reverse --base base/ --out run

        genepool train answers.jsonl --base org/model --lora 16 --out run

        genepool train tasks/sort --base base/ --full --steps 400 --out run

        genepool train tasks/sort --base base/ --form hydra --set form.rank=4 --out run

        genepool train tasks/sort tasks/copy --base base/ --sampler skill_it --out run

        genepool train pairs.jsonl --base base/ --objective dpo --set beta=0.2 --out run

        genepool train tasks/sort tasks/upper --base base/ --learner replay --steps 40 --out run

        genepool train training.yaml --out run

        genepool train loop.yaml --out run

    You may kill the command at any time: the same command continues and gives the same bits. The result is a skill,
    DIR/adapter, DIR/skill.safetensors or DIR/form. You can add it to a library, merge it, or ask `BASE+DIR/adapter`.
    Of the learner slm it is DIR/composition, which is asked by itself.
    """
    options.begin(quiet)
    if overwrite:
        options.refuse_own_input(out, tasks, base, teacher, others, gate, fork, ledger, plugin, trust_tasks)
    options.load_plugins(plugin)
    import genepool
    from genepool import measure
    from genepool.errors import CheckFailed, InputError
    from genepool.training.folder import REPORT_FILE

    recipe = _recipe(context, tasks)
    try:
        result = genepool.train(
            recipe,
            out,
            ledger=ledger,
            device=device,
            fork=fork,
            trusted=trust_tasks or (),
            allow_pickle=allow_pickle,
            overwrite=overwrite,
            gate=gate,
        )
    except InputError as error:
        if error.where in (tasks or ()) or not _CHOSEN.fullmatch(error.where):
            raise
        # Only base and examples say that an option of a sampler or a learner does not fit them.
        where = f"{tasks[0]}:{error.where}" if base is None else _option(error.where)
        raise InputError(error.what, where=where, fix=error.fix) from None
    page = out / REPORT_FILE
    if json_output:
        options.print_json({"out": str(out), "report": str(page), "finished_before": result.resumed, **result.told})
    else:
        _show(result, page)
    if gate is not None:
        known = {"ledger": ledger, "device": device, "trusted": trust_tasks or (), "allow_pickle": allow_pickle}
        comparison = _comparison(recipe, result, known)
        judged = measure.check_gates(measure.load_gates(gate), comparison, gate)
        if failed := [one for one in judged if not one.passed]:
            raise CheckFailed(f"{gate}: {len(failed)} of {len(judged)} gates do not hold")


def _comparison(recipe: Training | Loop, result: TrainingResult, known: dict[str, Any]) -> Comparison:
    """Before and after; of what was finished before, out of the ledger."""
    from genepool.training import gains_of
    from genepool.training.loops import Loop, loop_gains_of

    if result.gains is not None:
        return result.gains.comparison
    again = loop_gains_of if isinstance(recipe, Loop) else gains_of
    return again(result.out, **known).comparison


def _recipe(context: typer.Context, tasks: list[str]) -> Training | Loop:
    """The training that the command line says, or its file."""
    from genepool.errors import InputError
    from genepool.schema import validate
    from genepool.training import Training, is_training, load_training
    from genepool.training.learners import learners
    from genepool.training.loops import is_loop, load_loop
    from genepool.training.objectives import objectives
    from genepool.weights.adapter_forms import adapter_forms

    first = Path(tasks[0])
    if len(tasks) == 1 and (is_training(first) or first.suffix in (".yaml", ".yml")):
        _said_in_the_file(context, first)
        return load_loop(first) if is_loop(first) else load_training(first)
    if (file := next((one for one in tasks if is_training(Path(one)) or is_loop(Path(one))), None)) is not None:
        raise InputError("stands beside other tasks", where=file, fix="Name the file alone; it names its tasks itself")
    given = context.params
    if given["base"] is None:
        raise InputError("no base is named", where="--base", fix="Name the model, or a training file that does")
    if given["full"] and given["lora"] is not None:
        raise InputError("contradicts --lora", where="--full", fix="Leave one of them out")
    if given["form"] is not None and (given["full"] or given["lora"] is not None):
        other = "--full" if given["full"] else "--lora"
        raise InputError(f"contradicts {other}", where="--form", fix="Leave one of them out")
    form = given["form"] or ("full" if given["full"] else "lora")
    plain: dict[str, Any] = {"base": given["base"], "tasks": tuple(tasks), "form": form}
    if given["lora"] is not None:
        plain["lora"] = {"rank": given["lora"]}
    said = given["set_"] or []
    of_form = [one.removeprefix(_OF_FORM) for one in said if one.startswith(_OF_FORM)]
    of_sampler = [one.removeprefix(_OF_SAMPLER) for one in said if one.startswith(_OF_SAMPLER)]
    of_method = [one for one in said if not one.startswith((_OF_FORM, _OF_SAMPLER))]
    if of_sampler:
        plain["sampler_options"] = options.settings(of_sampler)
    known = adapter_forms().get(form)
    if of_form:
        plain["form_options"] = options.settings(of_form, None if known is None else known.Options)
    chosen = given["objective"] or Training.model_fields["objective"].default
    kind = learners().get(given["learner"]) if given["learner"] is not None else objectives().get(chosen)
    plain["options"] = options.settings(of_method, None if kind is None else kind.Options)
    skipped = {"base", "lora", "full", "form", "set_"}
    plain |= {key: given[key] for key in _OF_A_RECIPE if key not in skipped and given[key] is not None}
    try:
        return validate(Training, plain, "")
    except InputError as error:
        # The help lists no option of an objective; what refused one knows where it is listed.
        of_part = error.where.startswith((":options.", ":form_options.", ":sampler_options."))
        general = not of_part and error.fix.startswith(("The page ", "Correct the value"))
        fix = "See `genepool train --help`" if general else error.fix
        raise InputError(error.what, where=_option(error.where), fix=fix) from None


def _option(key: str) -> str:
    """The option that says a key of a training: ":learning_rate" is --learning-rate, ":lora.rank" --lora."""
    name, _, inner = key.removeprefix(":").partition(".")
    if name == "options":
        return f"--set {inner}".rstrip()
    if name == "form_options":
        return f"--set {_OF_FORM}{inner}" if inner else "--form"
    if name == "sampler_options":
        return f"--set {_OF_SAMPLER}{inner}" if inner else "--sampler"
    return f"--{name.replace('_', '-')}" if name in _OF_A_RECIPE else name


def _said_in_the_file(context: typer.Context, file: Path) -> None:
    """Refuses options beside a training file that says the same itself."""
    from genepool.errors import InputError

    for name in _OF_A_RECIPE:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.rstrip('_').replace('_', '-')}"
            key = "options`, `form_options` or `sampler_options" if name == "set_" else name
            raise InputError("is set by the file", where=option, fix=f"Set `{key}` in {file}")


def _show(result: TrainingResult, page: Path) -> None:
    table = tables.TextTable("task", ["n", "before", "after", "difference", "95%", "gained", "lost", ""])
    for part in ("target", "others"):
        for row in result.told[part]:
            difference = row["difference"]
            table.add_row(
                row["task"],
                f"{row['n']:,}",
                f"{row['before']:.3f}",
                f"{row['after']:.3f}",
                f"{difference['mean']:+.3f}",
                f"{difference['lo']:+.3f} {difference['hi']:+.3f}",
                f"{row['gained']:,}",
                f"{row['lost']:,}",
                row["verdict"],
            )
        if part == "target":
            table.add_section()
    tables.show(table)
    if "learner" in result.told:
        _show_matrix(result.told)
    if "tokens_generated" in result.told:
        told = result.told
        rounds = "1 round" if told["rounds"] == 1 else f"{told['rounds']:,} rounds"
        tables.print_text(
            f"{rounds}: {told['steps']:,} steps, {told['tokens_generated']:,} tokens generated, "
            f"{told['labels']:,} known answers used"
        )
    if (head := result.told.get("head")) is not None:
        tables.print_text(f"before: {head['before']}, since the base has no head")
    tables.print_text(f"the result: {result.result}\nthe page: {page}")


def _show_matrix(told: dict[str, Any]) -> None:
    """What every task scored after every task, and the measures of it."""
    heads = [*told["sequence"], *(one["task"] for one in told["generic"])]
    table = tables.TextTable("after", [*heads, "memory"])
    rows = [("nothing", [*told["untrained"], *(one["before"] for one in told["generic"])], 0)]
    for at, (stage, scores) in enumerate(zip(told["stages"], told["matrix"], strict=True)):
        others = [one["after"][at] for one in told["generic"]]
        rows.append((", ".join(stage["tasks"]), [*scores, *others], stage["memory_bytes"]))
    for name, scores, memory in rows:
        table.add_row(name, *(f"{score:.3f}" for score in scores), options.size_text(memory))
    tables.show(table)
    words = {"acc": "average", "bwt": "backward transfer", "fwt": "forward transfer", "forgetting": "forgetting"}
    said = [
        f"{word} {told[key]:{'.3f' if key == 'acc' else '+.3f'}}"
        for key, word in words.items()
        if told[key] is not None
    ]
    tables.print_text(", ".join(said))
    if told.get("total_compute"):
        tables.print_text(
            f"error right after each task {told['mean_error']:.3f} on average, "
            f"for {told['total_compute']:.3g} operations"
        )
