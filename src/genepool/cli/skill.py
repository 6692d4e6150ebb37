"""`genepool skill`: take what a fine-tune learned out of it, and put it back on its base."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from genepool.cli import options


class StoredAs(StrEnum):
    """What deltas are stored as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Extract a skill from a fine-tune, apply skills to a base.")
    group.command("extract")(extract)
    group.command("apply")(apply)
    app.add_typer(group, name="skill")


def extract(
    tuned: Annotated[str, typer.Argument(help="The fine-tune: a folder, a file, a hub model, BASE+ADAPTER.")],
    base: Annotated[str, typer.Option(help="What it was fine-tuned from.")],
    out: Annotated[Path, typer.Option(help="The skill file, ending in .safetensors.")],
    dtype: Annotated[StoredAs, typer.Option(help="What the deltas are stored as.")] = StoredAs.float32,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write the difference between a fine-tune and its base as a skill.

    [bold]Example[/bold]

        genepool skill extract tuned/ --base base/ --out reverse.safetensors
    """
    options.begin(quiet)
    from genepool.skills import extract_skill
    from genepool.weights import open_weights
    from genepool.weights.tensor_info import dtype_code

    opened = open_weights(base, allow_pickle=allow_pickle)
    fine_tune = open_weights(tuned, base=opened, allow_pickle=allow_pickle)
    extract_skill(fine_tune, opened, out, dtype=dtype_code(dtype.value), overwrite=overwrite)
    size = out.stat().st_size
    if json_output:
        options.print_json({"out": str(out), "bytes": size, "base": base, "base_fingerprint": opened.fingerprint()})
    else:
        print(f"{out}: what {tuned} learned over {base}, {options.size_text(size)}")


def apply(
    skills: Annotated[list[str], typer.Argument(help="Skill files or PEFT adapter folders, added in this order.")],
    base: Annotated[str, typer.Option(help="The base they belong to.")],
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a base with one skill added as a model folder; several skills of one base are summed.

    [bold]Example[/bold]

        genepool skill apply reverse.safetensors sort.safetensors --base base/ --out both/
    """
    options.begin(quiet)
    from genepool.merging import Recipe, plan_merge, run_plan

    # A sum of skills is task arithmetic with every factor one: the merge engine already streams it.
    recipe = Recipe(
        method="task_arithmetic",
        base=base,
        models=[f"{base}+{skill}" for skill in skills],
        parameters={"lambda": 1.0},
    )
    run_plan(plan_merge(recipe.located("skill apply", None), allow_pickle=allow_pickle), out, overwrite=overwrite)
    if json_output:
        options.print_json({"out": str(out), "base": base, "skills": skills})
    else:
        print(f"{out}: {base} with {', '.join(skills)}")
