"""`genepool plan`: what a recipe will read, compute and write, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.evolution import Study
    from genepool.evolution.permissions import Permissions
    from genepool.training.opened_training import OpenedTraining

PANEL = options.Panel.models


def plan(
    context: typer.Context,
    recipe: Annotated[
        Path, typer.Argument(help="A recipe (genepool's or mergekit's), a study, a training or a composition.")
    ],
    all_tensors: Annotated[bool, typer.Option("--all", help="Show every tensor, not only the first layer's.")] = False,
    workers: Annotated[int, typer.Option("--workers", help="Plan a study for N processes.", min=1)] = 1,
    rest: options.RestOption = None,
    tasks: options.TaskFoldersOption = None,
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    plugin: options.PluginOption = None,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Check a recipe, study, training or composition, and show what it will read, compute, hold and write.

    [bold]Examples[/bold]

        genepool plan recipe.yaml

        genepool plan recipe.yaml --json | jq .peak_bytes

        genepool plan study.yaml --workers 2

        genepool plan training.yaml

        genepool plan loop.yaml

        genepool plan compose.yaml

    Only headers of models are read.
    """
    options.begin(quiet)
    from genepool.merging import load_recipe, plan_merge
    from genepool.merging.mixture import is_mixture_file, load_mixture, plan_mixture
    from genepool.merging.nesting import describe
    from genepool.merging.wholeness import check_whole

    options.load_plugins(plugin)
    is_study, is_training = _has_key(recipe, "study") or _has_key(recipe, "genome"), _has_key(recipe, "train")
    options.only_with(context, is_study, "a study file", "workers", "tasks")
    is_composing, is_loop = _has_key(recipe, "compose"), _has_key(recipe, "loop")
    options.only_with(
        context, not (is_study or is_training or is_composing or is_loop), "a recipe file", "all_tensors", "rest"
    )
    if is_composing:
        _plan_composing(recipe, json_output, allow_pickle, trust_tasks or ())
        return
    if is_loop:
        _plan_loop(recipe, json_output, allow_pickle, trust_tasks or ())
        return
    if is_training:
        _plan_training(recipe, json_output, allow_pickle, trust_tasks or ())
        return
    if is_study:
        from genepool.evolution import load_study
        from genepool.evolution.permissions import Permissions

        trust = Permissions(allow_pickle, tuple(trust_tasks or ()))
        _plan_study(load_study(recipe, tasks or (), trusted=trust.tasks), recipe, workers, json_output, trust)
        return
    is_mixture = is_mixture_file(recipe)
    options.only_with(context, not is_mixture, "a recipe file", "rest")
    if is_mixture:
        folder = recipe.resolve().parent
        planned = plan_mixture(load_mixture(recipe), str(recipe), folder, allow_pickle=allow_pickle)
    else:
        loaded = load_recipe(recipe)
        if rest is not None:
            loaded = loaded.model_copy(update={"rest": rest}).located(loaded.where, loaded.folder)
        planned = plan_merge(loaded, allow_pickle=allow_pickle)
        check_whole(planned)
    shown = describe(planned)
    if json_output:
        options.print_json(shown)
        return
    heads = ("part", "shape", "stored", "inputs", "parameters")
    table = tables.TextTable("tensor", heads, title=f"{recipe}: {shown['method']}", prose=("parameters",))
    steps = shown["steps"]
    chosen = steps if all_tensors else [step for step in steps if step["layer"] in (None, 0)]
    for step in chosen:
        values = [f"{key} {_text(value)}" for key, value in step["parameters"].items()]
        own: dict[str, list[object]] = {}
        for entry in step["model_parameters"]:
            for key, value in entry.items():
                own.setdefault(key, []).append(value)
        values = [f"{key} {', '.join(map(_text, row))}" for key, row in own.items()] + values
        inputs = "kept" if step["kept"] else f"{len(step['inputs'])}{' + base' if step['base'] else ''}"
        table.add_row(step["tensor"], step["part"], str(step["shape"]), step["dtype"], inputs, "; ".join(values))
    tables.show(table)
    if len(chosen) < len(steps):
        tables.print_text(f"and the same for {len(steps) - len(chosen)} tensors of further layers (--all shows them)")
    _print_inner(shown, "")
    for name, renaming in shown["renamed"].items():
        stored, own = renaming["example"]
        what = f"{renaming['tensors']:,} tensors have other names in its file, such as {stored} for {own}"
        tables.print_text(f"{name}: {what}")
    for line in planned.layout.remarks():
        tables.print_text(line)
    tables.print_text(
        f"{len(steps)} tensors in {shown['passes']} pass{'es' if shown['passes'] > 1 else ''}: reads "
        f"{options.size_text(shown['bytes_read'])}, writes {options.size_text(shown['bytes_written'])}, "
        f"works in at most {options.size_text(shown['peak_bytes'])} per thread"
    )
    _print_beside(shown)


def _print_beside(shown: Mapping[str, Any]) -> None:
    """What is dequantised, whose config and tokenizer go along, where configs differ, and the files beside."""
    for name, what in shown["dequantised"].items():
        tables.print_text(f"{name} is {what}")
    tables.print_text(f"config of {shown['config_of']}, tokenizer of {shown['tokenizer_of']}")
    if joined := shown.get("vocabulary"):
        filled = ", ".join(f"{one['filled']:,} of {name}" for name, one in joined["models"].items())
        tables.print_text(
            f"one vocabulary of {joined['tokens']:,} tokens in {joined['rows']:,} rows; filled in: {filled}"
        )
    for key, values in shown["config_differences"].items():
        said = ", ".join(f"{json.dumps(value)} in {model}" for model, value in values.items())
        tables.print_text(f"configs differ: {key} is {said}")
    if shown["carried"]:
        tables.print_text(f"goes along: {', '.join(shown['carried'])}")
    for name, why in shown["left"].items():
        tables.print_text(f"stays behind: {name} ({why})")


def _has_key(path: Path, key: str) -> bool:
    from genepool.schema import read_yaml

    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    data = read_yaml(path)
    return isinstance(data, dict) and key in data


def _plan_training(path: Path, json_output: bool, allow_pickle: bool, trust_tasks: Sequence[Path]) -> None:
    from genepool.kernels.memory import free_memory
    from genepool.training import load_training
    from genepool.training.continual.opening import open_sequence
    from genepool.training.memory import plan_memory
    from genepool.training.opened_training import OpenedTraining
    from genepool.training.planned import plan_lessons

    recipe = load_training(path)
    opening = OpenedTraining.open if recipe.learner is None else open_sequence
    opened = opening(recipe, trusted=trust_tasks, allow_pickle=allow_pickle)
    memory, free = plan_memory(opened), free_memory()
    if recipe.learner is not None:
        _plan_sequence(opened, memory.to_dict(), free, json_output)
        return
    examples = {"train": len(opened.lessons.train), "valid": len(opened.lessons.valid)}
    planned = plan_lessons(opened)
    if json_output:
        tasks = {"tasks": [one.to_dict() for one in planned]}
        options.print_json({"steps": recipe.steps, "examples": examples, **tasks, **memory.to_dict(), "free": free})
        return
    for one in planned:
        what = f"texts of at most {one.window:,} characters" if one.texts else "examples"
        part = f", {one.portion:.2%} of its training split" if one.portion < 1 else ""
        if len(planned) > 1 or one.texts or part:
            line = f"{one.task}: {one.used:,} {what}{part}; {one.each_step:.1f} of the {recipe.batch} in a step"
            tables.print_text(f"{line}, on average" if len(planned) > 1 else line)
    if recipe.average is not None:
        tables.print_text(f"a running mean of the weights is written (decay {recipe.average.decay:g})")
    size = options.size_text
    others = ", ".join(task.name for task in opened.others) or "none"
    tables.print_text(
        f"{recipe.form} of {opened.base.name}: {memory.parameters:,} entries are trained in {recipe.steps:,} steps at "
        f"most, on {examples['train']:,} examples; {examples['valid']:,} validate\n"
        f"asked before and after: {', '.join(task.name for task in opened.lessons.tasks)}; others: {others}\n"
        f"memory: {size(memory.total)} of {size(free)} free: {'fits' if memory.total <= free else 'DOES NOT FIT'}; "
        f"weights {size(memory.weights)}, trained values {size(memory.trained)}, gradient and moments "
        f"{size(memory.moments)}, activations about {size(memory.activations)}, the program {size(memory.program)}"
    )


def _plan_sequence(opened: OpenedTraining, memory: Mapping[str, Any], free: int, json_output: bool) -> None:
    """What is learned in which order."""
    from genepool.training.continual.planning import plan_sequence

    shown = plan_sequence(opened)
    if json_output:
        options.print_json({**shown, **memory, "free": free})
        return
    for at, one in enumerate(shown["stages"], 1):
        what = f"{one['examples']:,} examples, {one['steps']:,} steps"
        tables.print_text(f"{at}. {', '.join(one['tasks'])}: {what}, then {one['asked']:,} test examples are asked")
    others = ", ".join(task.name for task in opened.others) or "none"
    size = options.size_text
    tables.print_text(
        f"learner {shown['learner']}: {shown['steps']:,} steps in all; asked after every task: "
        f"{', '.join(shown['sequence'])}; others: {others}\n"
        f"memory: {size(memory['total'])} of {size(free)} free, beside what the learner keeps of earlier tasks: "
        f"{'fits' if memory['total'] <= free else 'DOES NOT FIT'}"
    )


def _plan_loop(path: Path, json_output: bool, allow_pickle: bool, trust_tasks: Sequence[Path]) -> None:
    from genepool.kernels.memory import free_memory
    from genepool.training.loops import load_loop
    from genepool.training.loops.planning import plan_loop

    shown, free = plan_loop(load_loop(path), trusted=trust_tasks, allow_pickle=allow_pickle), free_memory()
    if json_output:
        options.print_json({**shown, "free": free})
        return
    table = tables.TextTable("round", ["stage", "writes", "samples", "steps"], prose=("writes",))
    for one in shown["stages"]:
        # The rounds are alike.
        if one["round"] in (0, 1, shown["rounds"] + 1):
            writes = ", ".join(f"{count:,} {name}" for name, count in one["lines"].items() if count)
            counts = [f"{one[key]:,}" if one[key] else "" for key in ("samples", "steps")]
            table.add_row(str(one["round"]), one["stage"], writes, *counts)
    tables.show(table)
    size, total = options.size_text, shown["memory"]["total"]
    rounds = "1 round" if shown["rounds"] == 1 else f"{shown['rounds']:,} rounds"
    tables.print_text(
        f"{rounds} on {shown['examples']:,} examples: at most {shown['samples']:,} samples and "
        f"{shown['steps']:,} steps in all\n"
        f"asked before and after: {', '.join(shown['tasks'])}; others: {', '.join(shown['others']) or 'none'}\n"
        f"memory of the largest training: {size(total)} of {size(free)} free: "
        f"{'fits' if total <= free else 'DOES NOT FIT'}"
    )


def _plan_composing(path: Path, json_output: bool, allow_pickle: bool, trust_tasks: Sequence[Path]) -> None:
    from genepool.composition import load_composing, plan_composing

    recipe = load_composing(path)
    memory, tasks = plan_composing(recipe, trusted=trust_tasks, allow_pickle=allow_pickle)
    names = [task.name for task in tasks]
    if json_output:
        options.print_json({"method": recipe.method, "tasks": names, "examples": recipe.examples, **memory.to_dict()})
        return
    size = options.size_text
    lines = [
        f"{recipe.method} of {len(recipe.skills)} skills on {recipe.base}: at most {recipe.examples:,} examples of "
        f"each task ({', '.join(names) or 'none'})",
        f"memory: {size(memory.total)} of {size(memory.free)} free, beside the activations; the network "
        f"{size(memory.network)}, gradients {size(memory.gradient)}, skills {size(sum(memory.skills.values()))}, kept "
        f"of them {size(memory.kept)}",
    ]
    if memory.way:
        lines.append(memory.how())
    if memory.streamed:
        lines.append(f"read from the disk in every step: {', '.join(memory.streamed)}")
    tables.print_text("\n".join(lines))


def _plan_study(study: Study, path: Path, workers: int, json_output: bool, trust: Permissions) -> None:
    from genepool.evolution.memory_plan import asked_per_candidate, plan_memory
    from genepool.evolution.opened_study import OpenedStudy
    from genepool.evolution.run import check_budget, first_generation

    opened = OpenedStudy.open(study, str(path), trust=trust)
    population = first_generation(opened)
    check_budget(study, population, str(path))
    memory = plan_memory(opened, workers)
    evaluations = study.budget.evaluations
    asked = asked_per_candidate(opened, population) * len(opened.tasks)
    learn: Any = getattr(study.vary, "learn", None)
    facts = {
        "strategy": study.strategy.name,
        "first_generation": population,
        "evaluations": evaluations,
        "examples_per_candidate": asked,
        **({} if learn is None else {"learning": {"steps": learn.steps, "batch": learn.batch}}),
        **memory.to_dict(),
    }
    if json_output:
        options.print_json(facts)
        return
    size = options.size_text
    of = f" of {evaluations:,} candidates in all" if evaluations is not None else ""
    lines = [
        f"{study.strategy.name} over {study.how}: {population} candidates in the first generation{of}, "
        f"each asked about {asked:,.0f} examples",
        f"every worker holds a model in {study.compute} ({size(memory.model)})"
        + (f", the base ({size(memory.base)})" if memory.base else ""),
    ]
    if learn is not None:
        in_all = f", {learn.steps * evaluations:,} steps in all at most" if evaluations is not None else ""
        lines.append(f"every child learns {learn.steps:,} steps of {learn.batch:,} examples{in_all}")
    if memory.skills:
        names = ", ".join(f"{name} ({size(need)})" for name, need in memory.skills.items())
        ready = "" if study.base is None else ", with their changes ready"
        lines.append(f"skills in memory{ready}: {names}")
    if memory.streamed:
        lines.append(f"read from the disk for every candidate: {', '.join(memory.streamed)}")
    if memory.children:
        lines.append(f"children: up to {size(memory.children)} in memory; the living on the disk")
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    each = f"{workers} x {size(memory.total)}" if workers > 1 else size(memory.total)
    lines.append(f"memory: {each} of {size(memory.free)} free: {verdict}")
    tables.print_text("\n".join(lines))


def _print_inner(shown: dict[str, Any], indent: str) -> None:
    for name, inner in shown.get("inner", {}).items():
        passes = f"{inner['passes']} pass{'es' if inner['passes'] > 1 else ''}"
        tables.print_text(f"{indent}{name}: {inner['method']} in {passes}, computed as it is read")
        _print_inner(inner, indent + "  ")


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
