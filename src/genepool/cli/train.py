"""`genepool train`: teach a model a task, and say what it gained and what it forgot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options

if TYPE_CHECKING:
    from genepool.training import Training, TrainingResult

# What a recipe file says itself.
_OF_A_RECIPE = (
    "base", "lora", "full", "objective", "teacher", "steps", "batch", "micro_batch", "learning_rate", "every",
    "patience", "others", "test", "seed", "threads", "dtype", "packing", "activation_checkpoints",
)  # fmt: skip


def train(
    context: typer.Context,
    tasks: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="Task folders or JSONL files; or one training file (.yaml).")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; one that was stopped is gone on with.")],
    base: Annotated[str | None, typer.Option("--base", help="Model to train: a folder, hub model, BASE+SKILL.")] = None,
    lora: Annotated[
        int | None, typer.Option("--lora", min=1, help="Train factors of this rank; an adapter comes out.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train every tensor; a skill file comes out.")] = False,
    objective: Annotated[str | None, typer.Option("--objective", help="What a step minimises.")] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Model that the objective compares with.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Take N optimiser steps at most [200].")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Put N examples in a step [32].")] = None,
    micro_batch: Annotated[
        int | None, typer.Option("--micro-batch", min=1, help="Examples computed at once, to save memory.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Largest learning rate; by the model's width by default.")
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", min=1, help="Steps between validations, each of which keeps the state.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=0, help="Stop after N validations without a lower loss; 0: never [4]."),
    ] = None,
    packing: Annotated[bool, typer.Option("--packing", help="Put several short examples into one row.")] = False,
    activation_checkpoints: Annotated[
        bool, typer.Option("--activation-checkpoints", help="Compute activations twice, to save memory.")
    ] = False,
    others: Annotated[
        str | None, typer.Option("--others", help="Folder of tasks not to forget; those beside the first by default.")
    ] = None,
    test: Annotated[int | None, typer.Option("--test", min=1, help="Use the first N test examples of a task.")] = None,
    gate: Annotated[Path | None, typer.Option("--gate", help="YAML file of limits; exit code 1 if one fails.")] = None,
    fork: Annotated[
        Path | None, typer.Option("--fork", help="Folder of another training: begin with what it had learned.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Outcomes; $GENEPOOL_LEDGER, else ./genepool.sqlite.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the order and of every draw.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads torch computes with.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where the model computes, such as cpu or cuda.")] = "cpu",
    dtype: Annotated[str | None, typer.Option("--dtype", help="What it computes in: float32 or bfloat16.")] = None,
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Fine-tune a model on tasks, and say what it gained and what it forgot.

    [bold]Examples[/bold]

        genepool train tasks/reverse --base base/ --out run

        genepool train answers.jsonl --base org/model --lora 16 --out run

        genepool train tasks/sort --base base/ --full --steps 400 --out run

        genepool train training.yaml --out run

    Kill it at any moment; the same command goes on, to the same bits. The result, DIR/adapter or DIR/skill.safetensors,
    is a skill: `genepool library add` it, merge it, or ask `BASE+DIR/adapter`.
    """
    options.begin(quiet)
    import genepool
    from genepool import measure
    from genepool.errors import CheckFailed
    from genepool.training import gains_of

    recipe = _recipe(context, tasks)
    gates = measure.load_gates(gate) if gate is not None else []
    result = genepool.train(
        recipe,
        out,
        ledger=ledger,
        device=device,
        fork=fork,
        trusted=trust_tasks or (),
        allow_pickle=allow_pickle,
        overwrite=overwrite,
    )
    if json_output:
        options.print_json({"out": str(out), "finished_before": result.resumed, **result.told})
    else:
        _show(result)
    if gates:
        comparison = gains_of(result.out, ledger=ledger, device=device).comparison
        judged = measure.check_gates(gates, comparison, gate or "")
        if failed := [one for one in judged if not one.passed]:
            raise CheckFailed(f"{gate}: {len(failed)} of {len(judged)} gates do not hold")


def _recipe(context: typer.Context, tasks: list[str]) -> Training:
    """The training that the command line says, or its file."""
    from genepool.errors import InputError
    from genepool.schema import validate
    from genepool.training import Training, is_training, load_training

    first = Path(tasks[0])
    if len(tasks) == 1 and (is_training(first) or first.suffix in (".yaml", ".yml")):
        options.only_with(context, False, "task folders instead of a training file", *_OF_A_RECIPE)
        return load_training(first)
    given = context.params
    if given["base"] is None:
        raise InputError("no base to train", where="--base", fix="Name the model, or a training file that does")
    if given["full"] and given["lora"] is not None:
        raise InputError("--full and --lora together", where="--full", fix="Leave one of them out")
    plain: dict[str, Any] = {"base": given["base"], "tasks": tuple(tasks), "form": "full" if given["full"] else "lora"}
    if given["lora"] is not None:
        plain["lora"] = {"rank": given["lora"]}
    skipped = {"base", "lora", "full"}
    plain |= {key: given[key] for key in _OF_A_RECIPE if key not in skipped and given[key] is not None}
    return validate(Training, plain, "train")


def _show(result: TrainingResult) -> None:
    table = options.plain_table("task", ["n", "before", "after", "difference", "95%", "gained", "lost", ""])
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
    options.console().print(table)
    options.console().print(f"the result: {result.result}", highlight=False, soft_wrap=True)
