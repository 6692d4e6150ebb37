"""The options every command shares, and how results leave a command: one object on stdout or a table."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


class Panel(StrEnum):
    """The panels of `genepool --help`, in their order. A command says which is its own: `PANEL = Panel.models`."""

    start = "Start"
    models = "Models"
    skills = "Skills"
    measuring = "Measuring"
    training = "Training"
    evolution = "Evolution"


def _checked_device(device: str) -> str:
    from genepool.devices import check_device

    check_device(device)
    return device


def _checked_dtype(dtype: str) -> str:
    from genepool.devices import check_dtype

    check_dtype(dtype)
    return dtype


def checked_seed(seed: int | None) -> int | None:
    """The seed that a user gives.

    Raises:
        InputError: it is negative, which no generator of random numbers takes.
    """
    from genepool.errors import InputError

    if seed is not None and seed < 0:
        raise InputError(f"must be at least 0, got {seed}", where="--seed", fix="Give 0 or more")
    return seed


# What a command prints and writes.
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and all else on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only, no progress.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output path.")]
OutFolderOption = Annotated[Path, typer.Option("--out", help="Write this folder, whole or not at all.")]
OutInsteadOption = Annotated[
    Path | None, typer.Option("--out", help="Write this path: another way to give the last argument.")
]
RestOption = Annotated[
    str | None,
    typer.Option("--rest", help="Merge only what all models share; take the rest and the config from this model."),
]
AsLoraOption = Annotated[
    int | None,
    typer.Option("--as-lora", metavar="RANK", help="Write a PEFT LoRA adapter of this rank instead of a model."),
]
FactorsOnlyOption = Annotated[
    bool,
    typer.Option(
        "--factors-only", help="Write factors alone: no norms and no biases, which servers such as vLLM refuse."
    ),
]
PagesOption = Annotated[list[Path] | None, typer.Option("--out", help="Write a page too, .html or .md; repeatable.")]

# What a command may open and run.
AllowPickleOption = Annotated[
    bool, typer.Option("--allow-pickle", help="Open PyTorch's .bin and .pt files too, tensors only (weights_only).")
]
TrustTasksOption = Annotated[
    list[Path] | None,
    typer.Option("--trust-tasks", exists=True, help="Run the code of this task file (.py or lm-eval's); repeatable."),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Run this Python file, which adds merge methods or metrics; repeatable."),
]

# What is asked of which models, and how.
MODEL = "A model: a folder, a file, a hub name, BASE+ADAPTER or BASE+SKILL."
ModelArgument = Annotated[str, typer.Argument(help=MODEL)]
ModelsArgument = Annotated[list[str], typer.Argument(help="Folders, files, hub names, BASE+ADAPTER, BASE+SKILL.")]
TASKS = "Use the tasks of this folder, task folder, file or lm-eval:NAME."
TasksOption = Annotated[Path, typer.Option("--tasks", help=TASKS)]
TaskFoldersOption = Annotated[
    list[Path] | None,
    typer.Option("--tasks", help="Find the tasks of a mergekit-evolve file in this folder; repeatable."),
]
TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", help="Use only this task of --tasks; repeatable, in order."),
]
SplitOption = Annotated[str, typer.Option("--split", help="Use the examples of this split: train, valid or test.")]
LedgerOption = Annotated[
    Path | None,
    typer.Option("--ledger", help="Keep outcomes in this file; by default $GENEPOOL_LEDGER, else ./genepool.sqlite."),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Use the first N examples of each task.")
]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", min=1, metavar="N", help="Evaluate N examples in each batch.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", callback=_checked_device, help="Compute on this device, such as cpu or cuda.")
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype", callback=_checked_dtype, help="Compute in this type: float32, bfloat16, float16 or float64."
    ),
]

GateOption = Annotated[
    Path | None, typer.Option("--gate", help="Check the gates of this YAML file; exit with 1 if one fails.")
]

# What chance decides.
SeedOption = Annotated[
    int, typer.Option("--seed", callback=checked_seed, help="Set the seed: the same seed gives the same result.")
]
BootstrapSeedOption = Annotated[
    int, typer.Option("--seed", callback=checked_seed, help="Set the seed of the bootstrap.")
]
DrawingSeedOption = Annotated[
    int | None, typer.Option("--seed", callback=checked_seed, help="Set the seed of tasks that draw tokens.")
]


def begin(quiet: bool = False) -> None:
    """Called first in every command: sets what the shared options mean."""
    from genepool import progress

    progress.set_quiet(quiet)


def only_with(context: typer.Context, given: bool, other: str, *names: str) -> None:
    """Refuses options that say nothing without another: what a user writes is never passed over.

    Args:
        context: of the command.
        given: whether the other one is there.
        other: what a user would add: "--race".
        names: of the parameters that need it.

    Raises:
        InputError: one of them stands on the command line, and the other does not.
    """
    from genepool.errors import InputError

    for name in () if given else names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = next(param.opts[0] for param in context.command.params if param.name == name)
            raise InputError(f"has no effect without {other}", where=option, fix=f"Add {other}, or leave it out")


def place(positional: Path | None, out: Path | None, name: str) -> Path:
    """Where a result goes that is named as the last argument or by --out.

    Args:
        positional: the argument.
        out: the option.
        name: of the argument, as the usage line has it.

    Raises:
        InputError: both are given, or neither.
    """
    from genepool.errors import InputError

    if positional is not None and out is not None:
        raise InputError(f"got {positional} as {name} and {out} as --out", where="--out", fix="Give one of them")
    found = positional if positional is not None else out
    if found is None:
        raise InputError(f"Missing argument '{name}'", fix="Name the path to write, there or with --out")
    return found


def load_plugins(files: Sequence[Path] | None) -> None:
    """What `--plugin` means: their methods and metrics are there for this command."""
    if not files:
        return
    from genepool.tasks.plugins import load_plugin

    for file in files:
        load_plugin(file)


def print_json(payload: dict[str, Any]) -> None:
    """The `--json` answer: one object that carries its schema number."""
    text = json.dumps({"schema": 1, **payload}, ensure_ascii=False, allow_nan=False)
    # JSON itself escapes the control characters of ASCII alone.
    sys.stdout.write(re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def with_old_keys(found: dict[str, Any]) -> dict[str, Any]:
    """What is printed, with `abilities` and `ability` beside `tasks` and `task`: older programs read those."""
    tasks = found.get("tasks")
    if isinstance(tasks, dict):
        found = {**found, "abilities": tasks}
    elif isinstance(tasks, list):
        found = {**found, "abilities": [{"ability": one["task"], **one} for one in tasks]}
    return {**found, "ability": found["task"]} if "task" in found else found


def parse_size(text: str, option: str) -> int:
    """Bytes from "5GB", "500MB" or a plain number; decimal units, as disks and hubs count.

    Raises:
        InputError: it is not a positive size.
    """
    from genepool.errors import InputError

    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1, "": 1}
    digits = text.strip().upper().rstrip("KMGTB")
    unit = text.strip().upper()[len(digits) :]
    try:
        size = int(float(digits) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise InputError(f"got {text!r}, expected a size", where=option, fix="Write it like 500MB or 5GB")
    return size


def refuse_own_input(out: Path | Sequence[Path] | None, *inputs: str | Path | Sequence[str | Path] | None) -> None:
    """Refuses outputs that would replace what a command reads.

    Args:
        out: what the command writes.
        inputs: what its arguments and options name; None where one is not given.

    Raises:
        InputError: an output is an input, holds one, or is a file of one.
    """
    from genepool.own_inputs import refuse_own_input

    named = [name for one in inputs if one is not None for name in ([one] if isinstance(one, str | Path) else one)]
    for path in [] if out is None else [out] if isinstance(out, Path) else out:
        refuse_own_input(path, named)


def check_page(path: Path, overwrite: bool) -> None:
    """A page's name before anything is computed.

    Raises:
        InputError: another ending, a folder, or a file that is there and is not to be replaced.
    """
    from genepool.errors import InputError
    from genepool.staging import check_file

    if path.suffix not in (".html", ".md"):
        raise InputError("the name must end in .html or .md", where=path, fix=f"Name it {path.stem or 'page'}.html")
    check_file(path, overwrite=overwrite)


def size_text(size: float) -> str:
    """A number of bytes as people read it: 3.3 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def settings(pairs: list[str], model: type[BaseModel] | None = None) -> dict[str, Any]:
    """What KEY=VALUE pairs of --set say; values are read as YAML.

    Args:
        pairs: as they were typed.
        model: of the options. Where it takes a text and nothing else, a value that YAML does not read as a text, such
            as `#`, `~` or `1`, is the text as it was typed. `null` is none where the model allows it.

    Raises:
        InputError: a pair has no `=` or no key, or a key is set twice.
    """
    from genepool.errors import InputError
    from genepool.schema import parsed_documents

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"got {pair!r}, expected KEY=VALUE", where="--set", fix="Write it like steps=100")
        if key in found:
            raise InputError(f"{key} is set twice", where="--set", fix="Leave one of them out")
        try:
            said = parsed_documents(value, Path("--set"))
            found[key] = said[0] if said else None
        except InputError:
            found[key] = value
        field = None if model is None else model.model_fields.get(key)
        if field is not None and field.annotation in (str, str | None) and not isinstance(found[key], str):
            optional = field.annotation is not str and value in ("", "null")
            found[key] = None if optional else value
    return found
