"""Files of `mergekit-evolve` as studies.

Its `genome` becomes a kind of genome of ours in the same coordinates (`mergekit_genome`), its CMA-ES ours with the same
first step and population, and its tasks are found by name: in folders that the caller gives, or among lm-eval's. Uses
merging and tasks; `load_study` asks here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from genepool import progress
from genepool.errors import InputError
from genepool.evolution.evolved_tasks import chosen_tasks
from genepool.evolution.representations import Vary, representation
from genepool.evolution.study import Study, resolve_model
from genepool.merging.mergekit import reference
from genepool.schema import Strict, validate

#: The kind of genome that its `genome` becomes.
KIND = "mergekit_genome"
#: Candidates where neither the file nor the caller says how many, and the first step of CMA-ES in its coordinates:
#: the defaults of `--max-fevals` and `--sigma0` of mergekit 0.1.5.
EVALUATIONS, FIRST_STEP = 100, 1 / 6
# The share of a task's examples that judge the winner where the task has one split. mergekit judges it by the examples
# that chose it.
_HELD_OUT = 0.5


class _Genome(Strict):
    models: list[Any] = Field(min_length=1)
    merge_method: str
    base_model: Any = None
    tokenizer_source: Any = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


class EvolvedTask(Strict):
    """One of the tasks of a file: a name, its share in the fitness, and the metric of lm-eval that is its score."""

    name: str = Field(min_length=1)
    weight: float = Field(default=1.0, ge=0)
    metric: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class EvolveFile(Strict):
    """A file of `mergekit-evolve`."""

    genome: _Genome
    tasks: list[EvolvedTask] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)
    num_fewshot: int | None = Field(default=None, ge=0)
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool | None = None
    fewshot_as_multiturn: bool = True


def study_of(
    data: dict[str, Any], path: Path, task_folders: Sequence[str | Path] = (), trusted: Collection[str | Path] = ()
) -> Study:
    """The study that searches what a file of `mergekit-evolve` does.

    Args:
        data: what the file held.
        path: the file; models are looked for in its folder, then in the working folder.
        task_folders: where its tasks are looked for by name, before lm-eval's own.
        trusted: files of tasks that may run code.

    Raises:
        InputError: a key is unknown or out of range, or a task is not on this machine; both are named.
    """
    file, where = validate(EvolveFile, data, path), str(path)
    genome = file.genome
    options: Any = _options(file, path)
    models = [_model(one, f"{where}:genome.models[{i}]", path) for i, one in enumerate(genome.models)]
    base = None if genome.base_model is None else _model(genome.base_model, f"{where}:genome.base_model", path)
    _check_models(genome, models, base, where)
    # A task vector of the base to itself is nothing, so its coordinates would be without effect.
    skills = models if genome.merge_method in ("linear", "slerp") else [one for one in models if one != base]
    progress.message(
        f"note: {where} is a file of mergekit-evolve; it is read as a study of {len(skills)} models with CMA-ES in its "
        f"coordinates and {EVALUATIONS} evaluations (--budget), written to study.yaml. Half of the examples of a task "
        "with one split judge the winner."
    )
    tasks = chosen_tasks(file, where, models[0], task_folders, trusted)
    study = {
        "base": base,
        "skills": [{"name": name, "model": model} for name, model in _named(skills).items()],
        "vary": options,
        "tasks": {**tasks, "held_out": _HELD_OUT, "valid": file.limit},
        "strategy": {"name": "cma_es", "options": {"sigma": FIRST_STEP / (2 * options.reach)}},
        "budget": {"evaluations": EVALUATIONS},
    }
    if file.shuffle:
        progress.message(f"note: {where}:shuffle: has no effect: every candidate answers the same examples.")
    return validate(Study, study, path)


def _model(value: Any, where: str, path: Path) -> str:
    name = reference(value, where)
    if not name:
        raise InputError(f"got {value!r}, expected the name of a model", where=where, fix="Write its path or hub name")
    return resolve_model(resolve_model(name, path.parent.resolve()), Path.cwd())


def _check_models(genome: _Genome, models: Sequence[str], base: str | None, where: str) -> None:
    twice = next((one for one in models if models.count(one) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice", where=f"{where}:genome.models", fix="Name each model once")
    method = genome.merge_method
    if base is None and method not in ("linear", "slerp"):
        raise InputError(f"{method} needs a base", where=f"{where}:genome.base_model", fix="Add it")
    if base is not None and base not in models and method in ("linear", "slerp"):
        raise InputError(
            f"{method} has no value for a base that is none of the models (mergekit fails at the first merge)",
            where=f"{where}:genome.base_model",
            fix="List it under models too, or leave it out",
        )
    if method == "slerp" and genome.normalize is not None:
        raise InputError("slerp has no normalize", where=f"{where}:genome.normalize", fix="Leave it out")


def _options(file: EvolveFile, path: Path) -> Vary:
    genome, where = file.genome, f"{path}:genome"
    source = genome.tokenizer_source
    if source not in (None, "union", "base"):
        source = _model(source, f"{where}.tokenizer_source", path)
    given = genome.model_dump(exclude={"models", "merge_method", "base_model", "tokenizer_source"})
    data = {
        **given,
        "kind": KIND,
        "method": genome.merge_method,
        "tokenizer_source": source,
        "random_init": file.random_init,
    }
    try:
        found = validate(representation(KIND).Options, data, "")
    except InputError as error:
        # What is wrong stands below `genome`, under its name there.
        key = error.where.removeprefix(":").replace("method", "merge_method")
        raise InputError(error.what, where=f"{where}.{key}" if key else where, fix=error.fix) from None
    return found.standing_at("genome")


def _named(models: Sequence[str]) -> Mapping[str, str]:
    """Models by a short name: the last part of their path, or all of it where two share that."""
    last = [model.split("+")[-1].rstrip("/").rpartition("/")[2] for model in models]
    return {name if last.count(name) == 1 else model: model for name, model in zip(last, models, strict=True)}
