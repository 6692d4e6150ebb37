"""`genepool skill`: take what a fine-tune learned out of it, store it small, work on it, and put it back on a base."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options

if TYPE_CHECKING:
    from genepool.skills import Changes, Form, Written


class StoredAs(StrEnum):
    """What values are stored as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class FormName(StrEnum):
    """The forms of a skill."""

    dense = "dense"
    sparse = "sparse"
    low_rank = "low-rank"
    packed = "packed"


class Target(StrEnum):
    """What a skill can be stored as."""

    dense = "dense"
    sparse = "sparse"
    low_rank = "low-rank"
    packed = "packed"
    peft = "peft"


class Packing(StrEnum):
    """The kinds of a packed skill."""

    signs = "signs"
    groups = "groups"
    singular = "singular"


class Scope(StrEnum):
    """Over what the largest entries are chosen."""

    tensor = "tensor"
    model = "model"


SKILL = "A skill file; with --base also a PEFT adapter's folder, or a fine-tune of the base."
SkillArgument = Annotated[str, typer.Argument(metavar="SKILL", help=SKILL)]
BaseOption = Annotated[str | None, typer.Option("--base", help="The model it is relative to: checked, and read.")]
OutOption = Annotated[Path, typer.Option("--out", help="The skill file to write, ending in .safetensors.")]
DtypeOption = Annotated[StoredAs | None, typer.Option("--dtype", help="What values and factors are stored as.")]
RankOption = Annotated[int | None, typer.Option("--rank", help="Most directions of a matrix (16).")]
DensityOption = Annotated[float, typer.Option("--density", help="Share of the entries that stay.")]
NameOption = Annotated[str, typer.Option("--name", help="What the skill is called.")]
DescriptionOption = Annotated[str, typer.Option("--description", help="What it can do, in a sentence.")]
LicenceOption = Annotated[str, typer.Option("--licence", help="SPDX identifier, such as apache-2.0.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help="Extract a skill from a fine-tune, store it small, work on it, apply it to its base."
    )
    for command in (extract, apply, show, convert, compress, project, drop, scale, negate):
        group.command(command.__name__)(command)
    group.command("sum")(add_up)
    app.add_typer(group, name="skill")


def extract(
    tuned: Annotated[str, typer.Argument(help="The fine-tune: a folder, a file, a hub model, BASE+ADAPTER.")],
    base: Annotated[str, typer.Option(help="What it was fine-tuned from.")],
    out: OutOption,
    to: Annotated[FormName | None, typer.Option(help="The form; low-rank when --rank is given, else dense.")] = None,
    rank: RankOption = None,
    packing: Annotated[Packing, typer.Option(help="With --to packed.")] = Packing.groups,
    bits: Annotated[int, typer.Option(help="With --to packed: 2, 4 or 8 for each entry of groups.")] = 4,
    dtype: DtypeOption = None,
    name: NameOption = "",
    description: DescriptionOption = "",
    licence: LicenceOption = "",
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write the difference between a fine-tune and its base as a skill.

    [bold]Examples[/bold]

        genepool skill extract tuned/ --base base/ --out reverse.safetensors

        genepool skill extract tuned/ --base base/ --rank 32 --out reverse-r32.safetensors
    """
    options.begin(quiet)
    from genepool.skills import open_changes
    from genepool.weights import open_weights

    opened = open_weights(base, allow_pickle=allow_pickle)
    changes = open_changes(tuned, opened, allow_pickle=allow_pickle)
    form = _form(to or (FormName.low_rank if rank else FormName.dense), dtype, rank, packing, bits)
    words = {"name": name, "description": description, "licence": licence}
    _store(changes, out, form, "extract", _settings(form), overwrite, json_output, words=words)


def convert(
    skill: SkillArgument,
    to: Annotated[Target, typer.Option(help="The form to store it in; peft is the folder of a LoRA adapter.")],
    out: Annotated[Path, typer.Option("--out", help="The skill file to write, or with --to peft the folder.")],
    base: BaseOption = None,
    rank: RankOption = None,
    packing: Annotated[Packing, typer.Option(help="With --to packed.")] = Packing.groups,
    bits: Annotated[int, typer.Option(help="With --to packed: 2, 4 or 8 for each entry of groups.")] = 4,
    dtype: DtypeOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Store a skill in another form, and say what that loses. An adapter's factors are taken over as they are.

    [bold]Examples[/bold]

        genepool skill convert reverse.safetensors --to low-rank --rank 16 --out reverse-r16.safetensors

        genepool skill convert my-lora/ --base base/ --to low-rank --out my-lora.safetensors

        genepool skill convert my-lora.safetensors --base base/ --to peft --out my-lora/
    """
    options.begin(quiet)
    changes = _open(skill, base, allow_pickle)
    if to is Target.peft:
        from genepool.errors import InputError
        from genepool.skills import write_peft

        if base is None or changes.base is None:
            raise InputError("an adapter needs its base", where="--base", fix="Name the model the skill belongs to")
        _say(write_peft(changes, changes.base, base, out, rank=rank, overwrite=overwrite), changes, json_output)
        return
    form = _form(FormName(to.value), dtype, rank, packing, bits)
    _store(changes, out, form, "convert", _settings(form), overwrite, json_output)


def compress(
    skill: SkillArgument,
    out: OutOption,
    budget: Annotated[str, typer.Option(help="The most the file may take: 50MB, 800KB.")],
    base: BaseOption = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Tasks whose examples tell which columns count; the base is run on them. Needs --base."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Examples of each task for --calibrate.")] = 128,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Pack a skill into a number of bytes, spent on the tensors where they lower the error most.

    [bold]Examples[/bold]

        genepool skill compress reverse.safetensors --budget 50MB --out reverse-50.safetensors

        genepool skill compress reverse.safetensors --budget 9MB --base base/ --calibrate tasks/ --out small.safetensors
    """
    options.begin(quiet)
    from genepool.errors import InputError
    from genepool.skills import compress as write_packed
    from genepool.skills import input_energies

    changes = _open(skill, base, allow_pickle)
    nbytes = options.parse_size(budget, "--budget")
    settings: dict[str, Any] = {"budget": nbytes}
    energies = None
    if calibrate is not None:
        from genepool.skills import model_of
        from genepool.tasks import load_tasks

        if changes.base is None:
            raise InputError("calibrating runs the base with the skill", where="--base", fix="Name the base")
        energies = input_energies(model_of(changes, skill), load_tasks(calibrate), limit=limit)
        settings |= {"calibrate": str(calibrate), "limit": limit}
    _say(write_packed(changes, out, nbytes, settings, energies, overwrite=overwrite), changes, json_output)


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

    changes = Largest(_open(skill, base, allow_pickle), density, scope.value)
    settings = {"density": density, "scope": scope.value}
    _store(changes, out, _form(FormName.sparse, dtype), "project", settings, overwrite, json_output)


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

    changes = Dropped(_open(skill, base, allow_pickle), density, rescale=rescale, seed=seed)
    settings = {"density": density, "rescale": rescale, "seed": seed}
    _store(changes, out, _form(FormName.sparse, dtype), "drop", settings, overwrite, json_output)


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
    to: Annotated[FormName | None, typer.Option(help="The form; low-rank when all of them are, else dense.")] = None,
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
    from genepool.skills import Sum
    from genepool.weights import open_weights

    opened = open_weights(base, allow_pickle=allow_pickle) if base else None
    from genepool.skills import open_changes

    parts = [open_changes(skill, opened, allow_pickle=allow_pickle) for skill in skills]
    form = _form(to, dtype, rank) if to else None
    _store(Sum(parts), out, form, "sum", {}, overwrite, json_output)


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


def _open(skill: str, base: str | None, allow_pickle: bool) -> Changes:
    from genepool.skills import open_changes
    from genepool.weights import open_weights

    opened = open_weights(base, allow_pickle=allow_pickle) if base else None
    return open_changes(skill, opened, allow_pickle=allow_pickle)


def _form(
    to: FormName,
    dtype: StoredAs | None,
    rank: int | None = None,
    packing: Packing = Packing.groups,
    bits: int = 4,
) -> Form:
    from genepool.skills import Form
    from genepool.weights.tensor_info import dtype_code

    return Form(to.value, dtype_code(dtype.value) if dtype else None, rank, packing.value, bits)


def _settings(form: Form) -> dict[str, Any]:
    """What of a form goes into the lineage."""
    found: dict[str, Any] = {"to": form.name, "dtype": form.dtype, "rank": form.rank}
    if form.name == "packed":
        found |= {"packing": form.packing, "bits": form.bits}
    return {key: value for key, value in found.items() if value is not None}


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
    _store(Scaled(_open(skill, base, allow_pickle), factor), out, None, operation, settings, overwrite, json_output)


def _store(
    changes: Changes,
    out: Path,
    form: Form | None,
    operation: str,
    settings: dict[str, Any],
    overwrite: bool,
    json_output: bool,
    words: dict[str, str] | None = None,
) -> None:
    from genepool.skills import store

    given = {key: value for key, value in (words or {}).items() if value}
    written = store(changes, out, form, operation, settings, words=given, overwrite=overwrite)
    _say(written, changes, json_output)


def _say(written: Written, changes: Changes, json_output: bool) -> None:
    if json_output:
        options.print_json(
            {
                "out": str(written.path),
                "bytes": written.nbytes,
                "tensors": written.tensors,
                "entries": written.entries,
                "error": written.error,
                "base": changes.header.base_name,
                "base_fingerprint": changes.header.base_fingerprint,
            }
        )
        return
    lost = f", {written.error:.2%} of the change lost" if written.error else ""
    bits = 8 * written.nbytes / written.entries
    print(f"{written.path}: {written.tensors} tensors of {changes.header.base_name or 'its base'} changed, "
          f"{options.size_text(written.nbytes)} ({bits:.2f} bits an entry){lost}")  # fmt: skip
