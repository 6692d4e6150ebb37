"""Making skill files: out of a fine-tune and its base, and out of other skills."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool import progress
from genepool.merging import Recipe, plan_merge, run_plan
from genepool.tasks import LanguageModel, open_model
from genepool.tasks.models import load_as
from genepool.weights import (
    BaseWithChange,
    BaseWithHead,
    Change,
    Form,
    ModelDifference,
    Weights,
    open_weights,
    store,
)
from genepool.weights.opening import skill_on
from genepool.weights.quantised import refuse_quantised
from genepool.weights.skill_file import is_skill


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
    refuse_quantised(base, base_name, "Name the unquantised model that they can be added to")
    names = [f"{base_name}+{skill}" for skill in skills]
    # A sum of skills is task arithmetic with every factor one: the merge engine already streams it.
    recipe = Recipe(method="task_arithmetic", base=base_name, models=names, parameters={"lambda": 1.0})
    sources: dict[str, Weights] = {}
    for name, skill in zip(names, skills, strict=True):
        path = Path(os.path.expanduser(skill))
        if force and is_skill(path):
            sources[name] = skill_on(base, path, force=True).applied(name)
        else:
            sources[name] = open_weights(skill, base=base, allow_pickle=allow_pickle)
        made = sources[name]
        if isinstance(made, BaseWithChange) and isinstance(made.base, BaseWithHead):
            # A skill that carries a head is a change of the base with it; the others then are too.
            base = made.base
    sources[base_name] = base
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
