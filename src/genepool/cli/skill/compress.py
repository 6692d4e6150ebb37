"""`genepool skill compress`: a skill in a number of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genepool.cli import options
from genepool.cli.skill.common import BaseOption, OutOption, SkillArgument, open_skill, print_written

OLD_SPELLINGS = {"--budget": "--size"}


def compress(
    context: typer.Context,
    skill: SkillArgument,
    out: OutOption,
    size: Annotated[str, typer.Option("--size", help="Use at most this many bytes, such as 50MB or 800KB.")],
    base: BaseOption = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Run the base on these tasks to learn which columns matter; only with --base."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N examples of each task of --calibrate.")] = 128,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = "float32",
    trust_tasks: options.TrustTasksOption = None,
    plugin: options.PluginOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Pack a skill into a given number of bytes, spent where they lower the error most.

    [bold]Examples[/bold]

        genepool skill compress reverse.safetensors --size 50MB --out reverse-50.safetensors

        genepool skill compress reverse.safetensors --size 9MB --base base/ --calibrate tasks/ --out small.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, skill, base, calibrate, plugin, trust_tasks)
    options.load_plugins(plugin)
    options.only_with(context, calibrate is not None, "--calibrate", "limit", "device", "dtype")
    from genepool.errors import InputError
    from genepool.skills import compress as write_packed
    from genepool.skills import input_energies
    from genepool.staging import check_file

    check_file(out, overwrite=overwrite)
    changes = open_skill(skill, base, allow_pickle)
    nbytes = options.parse_size(size, "--size")
    settings: dict[str, Any] = {"budget": nbytes}
    energies = None
    if calibrate is not None:
        from genepool.skills import model_of
        from genepool.tasks import load_tasks

        if changes.base is None:
            raise InputError(
                "is required with --calibrate, to run the base with the skill", where="--base", fix="Name the base"
            )
        asked = load_tasks(calibrate, trusted=trust_tasks or ())
        model = model_of(changes, device=device, dtype=dtype)
        energies = input_energies(model, asked, limit=limit)
        settings |= {"calibrate": str(calibrate), "limit": limit}
    print_written(write_packed(changes, out, nbytes, settings, energies, overwrite=overwrite), changes, json_output)
