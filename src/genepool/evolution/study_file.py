"""Reads a study file, or one of `mergekit-evolve` as a study.

Opens no model, except where the tasks of mergekit's file depend on one. Uses the study's model and the schema.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from genepool.errors import InputError, refuse_newer
from genepool.evolution.mergekit_evolve import EvolveFile, study_of
from genepool.evolution.study import Study
from genepool.schema import keys_of, read_yaml, validate

# Of the format; a file of a newer one is refused.
STUDY_VERSION = 1


def load_study(
    path: str | Path, task_folders: Sequence[str | Path] = (), *, trusted: Collection[str | Path] = ()
) -> Study:
    """Reads a study file; relative paths in it are taken from the file's folder.

    Args:
        path: the file, or one of `mergekit-evolve`, which is read as a study.
        task_folders: for a file of `mergekit-evolve`, where its tasks are looked for by name.
        trusted: files of tasks that may run code.

    Raises:
        InputError: no such file, not YAML, or a key that is missing, unknown or out of range.
    """
    path = Path(path)
    data = read_yaml(path, keys_of(Study, EvolveFile))
    if isinstance(data, dict) and "genome" in data and "study" not in data:
        return study_of(data, path, task_folders, trusted)
    if task_folders:
        raise InputError(
            "--tasks is for files of mergekit-evolve", where=path, fix="The study names its tasks under `tasks`"
        )
    if not isinstance(data, dict) or "study" not in data:
        raise InputError("is not a study file", where=path, fix="Write the key `study: 1` at its top")
    refuse_newer("study file", data["study"], STUDY_VERSION, f"{path}:study")
    return validate(Study, data, str(path)).resolved(path.parent.resolve())
