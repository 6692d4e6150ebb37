"""What the commands of `genepool skill` share: their options, and how a skill is opened, stored and told of."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genepool.cli import options, tables

if TYPE_CHECKING:
    from genepool.weights import Change, Form, WrittenChange


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


class By(StrEnum):
    """By what entries are put in order."""

    magnitude = "magnitude"
    graft = "graft"


SKILL = "A skill file; with --base also a PEFT adapter's folder, or a fine-tune of the base."
SkillArgument = Annotated[str, typer.Argument(metavar="SKILL", help=SKILL)]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="Read this model, and check that the skill belongs to it."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Write the skill to this .safetensors file.")]
DtypeOption = Annotated[StoredAs | None, typer.Option("--dtype", help="Store values and factors as this type.")]
RankOption = Annotated[
    int | None, typer.Option("--rank", help="Keep at most N directions of each matrix; by default 16.")
]
PackingOption = Annotated[Packing, typer.Option("--packing", help="Pack the entries this way; only with --to packed.")]
BitsOption = Annotated[
    int, typer.Option("--bits", help="Use 2, 4 or 8 bits for each entry of groups; only with --to packed.")
]
DensityOption = Annotated[float, typer.Option("--density", help="Keep this share of the entries, between 0 and 1.")]
NameOption = Annotated[str, typer.Option("--name", help="Call the skill this.")]
DescriptionOption = Annotated[str, typer.Option("--description", help="Describe in one sentence what the skill does.")]
LicenceOption = Annotated[
    str, typer.Option("--licence", help="Record this licence, an SPDX identifier such as apache-2.0.")
]


def open_skill(skill: str, base: str | None, allow_pickle: bool) -> Change:
    """The change a user names, on its base where that is named."""
    from genepool.weights import open_change, open_weights

    opened = open_weights(base, allow_pickle=allow_pickle) if base else None
    return open_change(skill, opened, allow_pickle=allow_pickle)


def form_of(
    to: FormName,
    dtype: StoredAs | None,
    rank: int | None = None,
    packing: Packing = Packing.groups,
    bits: int = 4,
) -> Form:
    """The form the options describe."""
    from genepool.weights import Form
    from genepool.weights.tensor_info import dtype_code

    return Form(to.value, dtype_code(dtype.value) if dtype else None, rank, packing.value, bits)


def settings_of(form: Form) -> dict[str, Any]:
    """What of a form goes into the lineage."""
    found: dict[str, Any] = {"to": form.name, "dtype": form.dtype, "rank": form.rank}
    if form.name == "packed":
        found |= {"packing": form.packing, "bits": form.bits}
    return {key: value for key, value in found.items() if value is not None}


def store_and_print(
    changes: Change,
    out: Path,
    form: Form | None,
    operation: str,
    settings: dict[str, Any],
    overwrite: bool,
    json_output: bool,
    words: dict[str, str] | None = None,
) -> None:
    """Writes a skill file and says what came of it."""
    from genepool.weights import store

    given = {key: value for key, value in (words or {}).items() if value}
    written = store(changes, out, form, operation, settings, words=given, overwrite=overwrite)
    print_written(written, changes, json_output)


def print_written(
    written: WrittenChange, changes: Change, json_output: bool, more: Mapping[str, Any] | None = None
) -> None:
    """What was written, as a line or as JSON."""
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
                **(more or {}),
            }
        )
        return
    lost = f", {written.error:.2%} of the change lost" if written.error else ""
    lost += f"; no adapter holds {written.left_out}" if written.left_out else ""
    bits = 8 * written.nbytes / written.entries
    tables.print_text(f"{written.path}: {written.tensors} tensors of {changes.header.base_name or 'its base'} changed, "
          f"{options.size_text(written.nbytes)} ({bits:.2f} bits an entry){lost}")  # fmt: skip


def store_scaled(
    skill: str,
    base: str | None,
    factor: float,
    out: Path,
    operation: str,
    overwrite: bool,
    json_output: bool,
    allow_pickle: bool,
) -> None:
    """Writes a skill times a factor and says what came of it."""
    import math

    from genepool.errors import InputError
    from genepool.weights import Scaled

    if not math.isfinite(factor) or factor == 0:
        raise InputError(
            f"must be a number other than zero, got {factor:g}", where="--factor", fix="Give another factor"
        )
    settings = {"factor": factor} if operation == "scale" else {}
    store_and_print(
        Scaled(open_skill(skill, base, allow_pickle), factor), out, None, operation, settings, overwrite, json_output
    )
