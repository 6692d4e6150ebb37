"""Making skill files: out of a fine-tune and its base, and out of other skills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genepool import progress
from genepool.merging import Recipe, plan_merge, run_plan
from genepool.skills.forms import Form
from genepool.tasks import LanguageModel, open_model
from genepool.tasks.models import load_as
from genepool.weights import (
    BaseWithChange,
    Change,
    ModelDifference,
    SkillFile,
    Weights,
    WrittenChange,
    open_weights,
    write_skill,
)
from genepool.weights.encodings import Encoding, Entry
from genepool.weights.skill_file import is_skill
from genepool.weights.skill_writer import AS_STORED, Choice, Choose


def store(
    changes: Change,
    out: str | Path,
    form: Form | Choose | None,
    operation: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    form_name: str | None = None,
    words: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> WrittenChange:
    """Writes changes as a skill file whose lineage says what made it.

    Args:
        changes: what to write.
        out: the file, ending in .safetensors.
        form: how; in the form they are stored in already when None.
        form_name: what the form is called, where `form` is none of the forms that have a name.
        operation, arguments: what goes into the lineage, as on the command line.
        words: name, description and licence, where they are to be other than those of `changes`.
        overwrite, threads: as for `write_skill`.

    Returns:
        The file and what storing it lost.
    """
    header = replace(changes.header, **dict(words or {}))
    header = header.made_by(operation, arguments=dict(arguments or {}), **changes.identity())
    if form_name is None:
        form_name = form.name if isinstance(form, Form) else form_of(changes)
    return write_skill(changes, out, form_name, form or _as_it_is, header, overwrite=overwrite, threads=threads)


def form_of(changes: Change) -> str:
    """The form that most of the changes are stored in already."""
    kinds = [stored[0].form for name in changes.names() if (stored := changes.stored(name)) is not None]
    entries = {kind: kinds.count(kind) for kind in kinds if kind != "dense"}
    return max(entries, key=lambda kind: entries[kind]) if entries else "dense"


def _as_it_is(name: str, shape: tuple[int, ...], stored: tuple[Encoding, Entry] | None) -> Choice:
    return AS_STORED if stored is not None else Choice("dense", {"dtype": "F32"})


def extract_skill(
    tuned: Weights,
    base: Weights,
    out: str | Path,
    *,
    form: Form | None = None,
    words: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> Path:
    """Writes `tuned - base` as a skill file.

    Args:
        tuned: the fine-tune.
        base: what it was fine-tuned from.
        out: the file, ending in .safetensors.
        form: how it is stored; dense, in float32, when None.
        words: name, description and licence.
        overwrite, threads: as for `write_skill`.

    Raises:
        InputError: the models do not line up, or do not differ at all.
    """
    return store(
        ModelDifference(tuned, base), out, form or Form("dense"), "extract", words=words, overwrite=overwrite,
        threads=threads,
    ).path  # fmt: skip


def apply_skills(
    skills: Sequence[str],
    base: Weights,
    base_name: str,
    out: Path,
    *,
    force: bool = False,
    allow_pickle: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes a base with the sum of some skills as a model folder.

    Args:
        skills: skill files or PEFT adapter folders.
        base: the base.
        base_name: what the recipe calls it.
        out: the folder.
        force: take skills of other bases, as long as shapes fit.
        allow_pickle: also open pickled adapters.
        overwrite: replace what is there.
    """
    names = [f"{base_name}+{skill}" for skill in skills]
    # A sum of skills is task arithmetic with every factor one: the merge engine already streams it.
    recipe = Recipe(method="task_arithmetic", base=base_name, models=names, parameters={"lambda": 1.0})
    sources = {base_name: base}
    for name, skill in zip(names, skills, strict=True):
        path = Path(skill).expanduser()
        if force and is_skill(path):
            sources[name] = BaseWithChange(base, SkillFile(path, base, force=True), name)
        else:
            sources[name] = open_weights(skill, base=base, allow_pickle=allow_pickle)
    return run_plan(plan_merge(recipe.located("skill apply", None), sources), out, overwrite=overwrite)


def model_of(changes: Change, *, device: str = "cpu", dtype: str = "float32") -> LanguageModel:
    """The base with a change that was opened on it, in memory, ready to be asked.

    Args:
        changes: opened on their base.
        device: torch's name of the device.
        dtype: what the model computes in.
    """
    with progress.bar(f"loading {changes.name}"):
        return load_as(LanguageModel, open_model(changes.applied()), "calibrating", device=device, dtype=dtype)
