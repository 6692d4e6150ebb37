"""`genepool compose`: learn how much of each skill to use, and write the composition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.composition import Composing

PANEL = options.Panel.skills
# What a composition file says itself.
_OF_A_FILE = ("base", "tasks", "task", "examples", "set_", "keep", "bundle", "seed", "dtype")


def compose(
    context: typer.Context,
    method: Annotated[
        str | None, typer.Argument(metavar="METHOD", help="The composer; or a composition file (.yaml).")
    ] = None,
    skills: Annotated[
        list[str] | None, typer.Argument(metavar="SKILL...", help="Fine-tunes, PEFT adapters or skill files.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write this folder, whole or not at all.")] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="Use this model, which the skills belong to, as the base."),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option("--tasks", help="Learn from the training splits of these tasks; a skill owns that of its name."),
    ] = None,
    task: options.TaskOption = None,
    examples: Annotated[
        int, typer.Option("--examples", min=1, metavar="N", help="Use N training examples of each task.")
    ] = 64,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set an option of the composer; repeatable."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write coefficients beside the skills instead of folding them into weights.")
    ] = False,
    bundle: Annotated[bool, typer.Option("--bundle", help="Put the skills into the folder too; with --keep.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the composers, or show the one that is named.")] = False,
    seed: Annotated[
        int,
        typer.Option("--seed", callback=options.checked_seed, help="Set the seed of the examples and of every draw."),
    ] = 0,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Compose frozen skills of one base: learn from a few examples how much of each to use.

    [bold]Examples[/bold]

        genepool compose --list

        genepool compose adamerging full/reverse full/sort --base base --tasks tasks --examples 64 --out both

        genepool compose adamerging --list

        genepool compose compose.yaml --out both

    A task belongs to the skill of its name; other tasks belong to the base. The result is used like any model.

    After Ctrl-C or a kill, the same command goes on; when it is finished, it changes nothing.
    """
    options.begin(quiet)
    if list_:
        _list(method, json_output)
        return
    from genepool.errors import InputError

    if method is None:
        raise InputError("Missing argument 'METHOD'", fix="Name a composer; `genepool compose --list` shows them")
    if out is None:
        raise InputError("no folder is named", where="--out", fix="Name the folder to write")
    options.load_plugins(plugin)
    from genepool.composition import compose as run

    recipe = _recipe(context, method, skills or [])
    found = run(recipe, out, device=device, trusted=trust_tasks or (), allow_pickle=allow_pickle, overwrite=overwrite)
    said = found.to_dict()
    if json_output:
        options.print_json(said)
        return
    if found.resumed:
        tables.print_text("this composition was finished before; nothing was done")
    record = said["record"]
    if "steps" in record:
        tables.print_text(f"{record['steps']:,} steps; the state of step {record['best_step']:,} is the best one")
    count = len(said["skills"])
    tables.print_text(f"{out}: {_FORMS[found.form]} of {count} skill{'s' * (count != 1)} by {said['method']}")


_FORMS = {"checkpoint": "a model", "adapter": "an adapter", "composition": "a composition"}


def _recipe(context: typer.Context, method: str, skills: list[str]) -> Composing:
    """The composition that the command line says, or its file."""
    from genepool.composition import Composing, all_composers, load_composing
    from genepool.errors import InputError
    from genepool.schema import validate

    given = context.params
    file = Path(method)
    if file.suffix in (".yaml", ".yml"):
        for name in _OF_A_FILE:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                option = f"--{name.rstrip('_')}"
                raise InputError("is set by the composition file", where=option, fix=f"Set it in {file}")
        if skills:
            raise InputError("skills are named beside a composition file", where=skills[0], fix=f"Name them in {file}")
        return load_composing(file)
    options.only_with(context, given["keep"], "--keep", "bundle")
    kind = all_composers().get(method)
    if not skills and (kind is None or kind.skills[0]):
        raise InputError("Missing argument 'SKILL...'", fix="Name the skills to compose")
    if given["base"] is None:
        raise InputError("no base is named", where="--base", fix="Name the model that the skills belong to")
    plain: dict[str, Any] = {
        "method": method,
        "base": given["base"],
        "skills": tuple(skills),
        "tasks": None if given["tasks"] is None else str(given["tasks"]),
        "task": tuple(given["task"] or ()),
        "examples": given["examples"],
        "options": options.settings(given["set_"] or [], None if kind is None else kind.Options),
        "fold": not given["keep"],
        "bundle": given["bundle"],
        "seed": given["seed"],
        "dtype": given["dtype"],
    }
    try:
        return validate(Composing, plain, "")
    except InputError as error:
        key = error.where.removeprefix(":").removeprefix("options").removeprefix(".")
        where = {"method": "METHOD", "tasks": "--tasks", "bundle": "--bundle"}.get(key, f"--set {key}".rstrip())
        raise InputError(error.what, where=where, fix=error.fix) from None


def _list(name: str | None, json_output: bool) -> None:
    from genepool.composition import all_composers, find_composer

    chosen = [find_composer(name, "METHOD")] if name else list(all_composers().values())
    if json_output:
        options.print_json({"composers": [composer.describe() for composer in chosen]})
        return
    if name is None:
        heads = ("when to use it", "needs", "out", "source")
        table = tables.TextTable("composer", heads, prose=heads)
        for composer in chosen:
            table.add_row(composer.name, composer.when, composer.needs_in_words(), composer.out, composer.source)
        tables.show(table)
        return
    composer = chosen[0]
    tables.print_text(f"  {composer.source}\n{composer.when}\ncost: {composer.cost}\n", bold=composer.name)
    columns = ("type", "default", "what it does")
    table = tables.TextTable("option", columns, prose=columns)
    for one in composer.parameters():
        default = "null" if one["default"] is None else str(one["default"])
        table.add_row(one["name"], one["type"], default, one["description"])
    tables.show(table)
