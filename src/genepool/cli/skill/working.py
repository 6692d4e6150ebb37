"""The commands that work on skills: apply, show, project, drop, scale, negate, sum."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options
from genepool.cli.skill.common import (
    BaseOption,
    DensityOption,
    DtypeOption,
    FormName,
    OutOption,
    RankOption,
    Scope,
    SkillArgument,
    form_of,
    open_skill,
    store_and_say,
)

if TYPE_CHECKING:
    pass


def apply(
    skills: Annotated[list[str], typer.Argument(help="Skill files or PEFT adapter folders, added in this order.")],
    base: Annotated[str, typer.Option(help="The base they belong to.")],
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    force: Annotated[bool, typer.Option("--force", help="Take a base that the skills were not made for.")] = False,
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
    from genepool.skills import apply_skills
    from genepool.weights import open_weights

    opened = open_weights(base, allow_pickle=allow_pickle)
    apply_skills(skills, opened, base, out, force=force, allow_pickle=allow_pickle, overwrite=overwrite)
    if json_output:
        options.print_json({"out": str(out), "base": base, "skills": skills})
    else:
        print(f"{out}: {base} with {', '.join(skills)}")


def show(
    skill: Annotated[str, typer.Argument(metavar="SKILL", help="A skill file.")],
    json_output: options.JsonOption = False,
) -> None:
    """Say what a skill file holds: form, base, lineage, scores, size.

    [bold]Example[/bold]

        genepool skill show reverse.safetensors
    """
    options.begin()
    from genepool.skills import Header
    from genepool.weights.skill_file import SkillFile

    found = SkillFile(skill)
    header = Header.of(found)
    kinds: dict[str, int] = {}
    for name in found.names():
        kind = found.stored(name)[0].kind
        kinds[kind] = kinds.get(kind, 0) + 1
    answer: dict[str, Any] = {
        "file": skill,
        "form": found.form,
        "bytes": found.nbytes,
        "digest": found.digest(),
        "tensors": len(found.names()),
        "stored_as": kinds,
        **{key: value for key, value in vars(header).items() if value not in ("", {}, None)},
    }
    if json_output:
        options.print_json(answer)
        return
    table = options.plain_table("", [skill])
    for key, value in answer.items():
        text = options.size_text(value) if key == "bytes" else str(value)
        table.add_row(key.replace("_", " "), text) if key != "file" else None
    options.console().print(table)


def project(
    skill: SkillArgument,
    out: OutOption,
    base: BaseOption = None,
    density: DensityOption = 0.05,
    scope: Annotated[Scope, typer.Option(help="Choose within each tensor, or over the whole model.")] = Scope.tensor,
    dtype: DtypeOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Keep the largest changes alone (SeleKT's projection; magnitude localisation with --scope model), as they are.

    [bold]Example[/bold]

        genepool skill project reverse.safetensors --density 0.05 --out reverse-5.safetensors
    """
    options.begin(quiet)
    from genepool.skills import Largest

    changes = Largest(open_skill(skill, base, allow_pickle), density, scope.value)
    settings = {"density": density, "scope": scope.value}
    store_and_say(changes, out, form_of(FormName.sparse, dtype), "project", settings, overwrite, json_output)


def drop(
    skill: SkillArgument,
    out: OutOption,
    base: BaseOption = None,
    density: DensityOption = 0.1,
    rescale: Annotated[bool, typer.Option(help="Divide what stays by the density.")] = True,
    dtype: DtypeOption = None,
    seed: options.SeedOption = 0,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Drop entries by chance and let the others make up for them (DARE).

    [bold]Example[/bold]

        genepool skill drop reverse.safetensors --density 0.1 --out reverse-dare.safetensors
    """
    options.begin(quiet)
    from genepool.skills import Dropped

    changes = Dropped(open_skill(skill, base, allow_pickle), density, rescale=rescale, seed=seed)
    settings = {"density": density, "rescale": rescale, "seed": seed}
    store_and_say(changes, out, form_of(FormName.sparse, dtype), "drop", settings, overwrite, json_output)


def scale(
    skill: SkillArgument,
    factor: Annotated[float, typer.Option("--factor", "-f", help="What the change is multiplied by.")],
    out: OutOption,
    base: BaseOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Multiply a skill by a factor. It keeps its form, and nothing is lost.

    [bold]Example[/bold]

        genepool skill scale reverse.safetensors --factor 0.5 --out half.safetensors
    """
    options.begin(quiet)
    _scaled(skill, base, factor, out, "scale", overwrite, json_output, allow_pickle)


def negate(
    skill: SkillArgument,
    out: OutOption,
    base: BaseOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Turn a skill round: applied, it unlearns what the skill taught.

    [bold]Example[/bold]

        genepool skill negate reverse.safetensors --out forget-reverse.safetensors
    """
    options.begin(quiet)
    _scaled(skill, base, -1.0, out, "negate", overwrite, json_output, allow_pickle)


def add_up(
    skills: Annotated[list[str], typer.Argument(metavar="SKILL ...", help="Skills of one base.")],
    out: OutOption,
    base: BaseOption = None,
    to: Annotated[
        FormName | None, typer.Option(help="The form; low-rank when --rank is given or all of them are, else dense.")
    ] = None,
    rank: RankOption = None,
    dtype: DtypeOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Add skills of one base up into one. Skills of low rank are put side by side, which is exact.

    [bold]Example[/bold]

        genepool skill sum reverse.safetensors sort.safetensors --out both.safetensors
    """
    options.begin(quiet)
    from genepool.skills import Sum, open_changes
    from genepool.skills.making import form_of as stored_form
    from genepool.weights import open_weights

    opened = open_weights(base, allow_pickle=allow_pickle) if base else None
    total = Sum([open_changes(skill, opened, allow_pickle=allow_pickle) for skill in skills])
    if to is None and (rank is not None or dtype is not None):
        to = FormName.low_rank if rank is not None or stored_form(total) == "low-rank" else FormName.dense
    form = form_of(to, dtype, rank) if to else None
    store_and_say(total, out, form, "sum", {}, overwrite, json_output)


def _scaled(
    skill: str,
    base: str | None,
    factor: float,
    out: Path,
    operation: str,
    overwrite: bool,
    json_output: bool,
    allow_pickle: bool,
) -> None:
    import math

    from genepool.errors import InputError
    from genepool.skills import Scaled

    if not math.isfinite(factor) or factor == 0:
        raise InputError(f"a factor of {factor:g}", where="--factor", fix="Give a number other than zero")
    settings = {"factor": factor} if operation == "scale" else {}
    store_and_say(
        Scaled(open_skill(skill, base, allow_pickle), factor), out, None, operation, settings, overwrite, json_output
    )
