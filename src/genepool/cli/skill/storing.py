"""The commands that store a skill: extract, convert, compress, localise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options
from genepool.cli.skill.common import (
    BaseOption,
    By,
    DescriptionOption,
    DtypeOption,
    FormName,
    LicenceOption,
    NameOption,
    OutOption,
    Packing,
    RankOption,
    SkillArgument,
    Target,
    form_of,
    open_skill,
    say,
    settings_of,
    store_and_say,
)

if TYPE_CHECKING:
    from genepool.skills import Changes


def extract(
    context: typer.Context,
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
    options.only_with(context, to is FormName.packed, "--to packed", "packing", "bits")
    options.only_with(context, to not in (FormName.dense, FormName.sparse), "--to low-rank", "rank")
    from genepool.skills import open_changes
    from genepool.weights import open_weights

    opened = open_weights(base, allow_pickle=allow_pickle)
    changes = open_changes(tuned, opened, allow_pickle=allow_pickle)
    form = form_of(to or (FormName.low_rank if rank else FormName.dense), dtype, rank, packing, bits)
    words = {"name": name, "description": description, "licence": licence}
    store_and_say(changes, out, form, "extract", settings_of(form), overwrite, json_output, words=words)


def convert(
    context: typer.Context,
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
    options.only_with(context, to is Target.packed, "--to packed", "packing", "bits")
    options.only_with(context, to not in (Target.dense, Target.sparse), "--to low-rank", "rank")
    changes = open_skill(skill, base, allow_pickle)
    if to is Target.peft:
        from genepool.errors import InputError
        from genepool.skills import write_peft

        if base is None or changes.base is None:
            raise InputError("an adapter needs its base", where="--base", fix="Name the model the skill belongs to")
        if dtype is not None:
            raise InputError(
                "the factors of an adapter keep their type", where="--dtype", fix="Leave it out, or name another form"
            )
        say(write_peft(changes, changes.base, base, out, rank=rank, overwrite=overwrite), changes, json_output)
        return
    form = form_of(FormName(to.value), dtype, rank, packing, bits)
    store_and_say(changes, out, form, "convert", settings_of(form), overwrite, json_output)


def compress(
    context: typer.Context,
    skill: SkillArgument,
    out: OutOption,
    budget: Annotated[str, typer.Option(help="The most the file may take: 50MB, 800KB.")],
    base: BaseOption = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Tasks whose examples tell which columns count; the base is run on them. Needs --base."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Examples of each task for --calibrate.")] = 128,
    trust_tasks: options.TrustTasksOption = None,
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
    options.only_with(context, calibrate is not None, "--calibrate", "limit")
    from genepool.errors import InputError
    from genepool.skills import compress as write_packed
    from genepool.skills import input_energies
    from genepool.staging import check_file

    check_file(out, overwrite=overwrite)
    changes = open_skill(skill, base, allow_pickle)
    nbytes = options.parse_size(budget, "--budget")
    settings: dict[str, Any] = {"budget": nbytes}
    energies = None
    if calibrate is not None:
        from genepool.skills import model_of
        from genepool.tasks import load_tasks

        if changes.base is None:
            raise InputError("calibrating runs the base with the skill", where="--base", fix="Name the base")
        asked = load_tasks(calibrate, trusted=trust_tasks or ())
        energies = input_energies(model_of(changes, skill, allow_pickle=allow_pickle), asked, limit=limit)
        settings |= {"calibrate": str(calibrate), "limit": limit}
    say(write_packed(changes, out, nbytes, settings, energies, overwrite=overwrite), changes, json_output)


def localise(
    context: typer.Context,
    skill: SkillArgument,
    out: OutOption,
    base: Annotated[str, typer.Option(help="The model it is relative to.")],
    tasks: Annotated[Path, typer.Option(help="A task the skill is good for: a folder or a file of examples.")],
    by: Annotated[By, typer.Option(help="Entries by magnitude, or by scores learned on the examples.")] = By.magnitude,
    keep: Annotated[float, typer.Option(help="Share of the gain over the base that must stay.")] = 0.95,
    steps: Annotated[int, typer.Option(help="Passes over the examples, with --by graft.")] = 100,
    split: Annotated[str, typer.Option(help="Which examples.")] = "valid",
    limit: Annotated[int, typer.Option(help="How many of them.")] = 256,
    dtype: DtypeOption = None,
    trust_tasks: options.TrustTasksOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Find the fewest changed entries that keep what a skill is good for, and write those.

    [bold]Examples[/bold]

        genepool skill localise reverse.safetensors --base base/ --tasks tasks/reverse --out where.safetensors

        genepool skill localise tuned/ --base base/ --tasks tasks/reverse --by graft --out grafted.safetensors
    """
    options.begin(quiet)
    options.only_with(context, by is By.graft, "--by graft", "steps")
    from genepool.errors import InputError
    from genepool.skills import Largest, store
    from genepool.skills.asked import encode_examples
    from genepool.skills.localising import Bench, Graft, smallest
    from genepool.staging import check_file
    from genepool.tasks import LanguageModel, load_tasks

    check_file(out, overwrite=overwrite)
    changes = open_skill(skill, base, allow_pickle)
    assert changes.base is not None
    found = load_tasks(tasks, trusted=trust_tasks or ())
    if len(found) != 1:
        raise InputError(f"{len(found)} tasks, where one is localised", where=tasks, fix="Name one of them")
    if steps < 1 or limit < 1:
        raise InputError(f"{min(steps, limit)} is too few", where="--steps, --limit", fix="Give 1 or more")
    model = LanguageModel.load(changes.base)
    bench = Bench(model, changes, encode_examples(model, list(found[0].examples(split))[:limit], found[0]))
    scores = bench.learn(changes, steps=steps) if by is By.graft else None

    def at(density: float) -> Changes:
        return Largest(changes, density) if scores is None else Graft(changes, scores, density)

    left = smallest(changes, at, bench.score, bench.score(None), keep=keep)
    settings = {"tasks": str(tasks), "by": by.value, "keep": keep, "split": split, "limit": limit}
    written = store(left.changes, out, form_of(FormName.sparse, dtype), "localise", settings, overwrite=overwrite)
    more = {"density": left.density, "score": left.score, "full": left.full, "base_score": left.base}
    if not json_output:
        print(
            f"{left.density:.3%} of the changed entries: {left.score:.3f} on {found[0].name}, {left.full:.3f} with all "
            f"of them, {left.base:.3f} with none"
        )
    say(written, changes, json_output, more)
