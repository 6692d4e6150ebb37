"""Saved compositions: a folder with `composition.json`, `router.safetensors`, perhaps `skills/`, and a README.

Loaded by the composer's registered name, so no code and no pickle is read. What was composed is found again by path and
checked by its hash; every skill that is missing or was altered is named. Uses `composition`; found by
`genepool.saved_models`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import staging
from genepool.checked import is_digest, is_line, kind_of
from genepool.composition.card import composition_card
from genepool.composition.composer import ComposerOptions, find_composer, make_composer
from genepool.composition.composition import Composition, Saved
from genepool.composition.saved_parts import all_labels, check_keys, check_parts
from genepool.composition.skill_set import ComposedSkill, Members, SkillSet, common_base, open_skill
from genepool.errors import InputError, one_line, refuse_newer
from genepool.saved_models import folder_and_task
from genepool.weights import Form, Weights, store
from genepool.weights import open_weights as open_model_weights
from genepool.weights.json_file import read_json

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models import Source

MARKER, ROUTER_FILE, SKILLS_FOLDER = "composition.json", "router.safetensors", "skills"
_VERSION = 1
_KEYS = (
    "genepool_composition",
    "genepool",
    "method",
    "parameters",
    "base",
    "skills",
    "models",
    "tensors",
    "labels",
    "record",
)
_AGAIN = "Compose it again"
# Of a fingerprint, what is said to people.
_SHOWN = 12


def save_composition(composition: Composition, out: Path, *, bundle: bool = False, overwrite: bool = False) -> Path:
    """Writes a composition as a folder, whole or not at all.

    Args:
        composition: what to write.
        out: the folder.
        bundle: put the skills into the folder too, as skill files; otherwise their paths and hashes are kept.
        overwrite: replace what is there.
    """
    from safetensors.torch import save_file

    with staging.staged_folder(out, overwrite=overwrite) as folder:
        skills = [
            _entry(composition.skills.base, skill, folder if bundle else None) for skill in composition.skills.skills
        ]
        base = {
            "path": found_from_anywhere(composition.skills.reference),
            "fingerprint": composition.skills.base.fingerprint(),
        }
        hashes = {
            one.fingerprint: str(entry["fingerprint"])
            for one, entry in zip(composition.skills.skills, skills, strict=True)
        }
        learned = composition.saved_tensors(hashes)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learned.items()}
        said = {
            "genepool_composition": _VERSION,
            "genepool": version("genepool"),
            "method": composition.composer.name,
            "parameters": _parameters(composition.composer.options),
            "base": base,
            "skills": skills,
            "models": composition.model_fingerprints(),
            "tensors": sorted(tensors),
            "labels": all_labels(composition),
            "record": composition.record,
        }
        save_file(tensors, folder / ROUTER_FILE, {"format": "pt"})
        (folder / MARKER).write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(composition_card(composition), encoding="utf-8")
    return out


def load_composition(folder: str | Path, *, allow_pickle: bool = False) -> Composition:
    """Opens a saved composition with its base and its skills.

    Headers and what was learned are read. `adamerging_pp` also streams the skills twice, for the thresholds of their
    entries, and merges in a subspace read the factors of every adapter.

    Args:
        folder: the folder.
        allow_pickle: the base and the skills may be PyTorch's .bin and .pt files.

    Raises:
        InputError: a file is damaged, the composer is unknown, the base is another one, or skills are missing or were
            altered, which are listed with their hashes.
    """
    folder = Path(folder)
    place = folder / MARKER
    said = read_json(place)
    refuse_newer("composition", said.get("genepool_composition"), _VERSION, place)
    if said.get("genepool_composition") != _VERSION:
        raise InputError("is no composition of genepool's", where=place, fix=_AGAIN)
    check_keys(said, _KEYS, str(place))
    method = _part(said, "method", str, place)
    parameters = _located(method, _part(said, "parameters", dict, place), folder)
    composer = make_composer(method, parameters, f"{place}:parameters")
    try:
        skills = _open_skills(folder, said, composer.members, allow_pickle)
    except RecursionError:
        raise InputError("is made of itself", where=place, fix=_AGAIN) from None
    labels = _part(said, "labels", dict, place)
    for name, values in labels.items():
        if not isinstance(values, list) or not all(map(is_line, values)):
            raise InputError("is not a list of names", where=f"{place}:labels.{name}", fix=_AGAIN)
    composer.check_saved(len(skills.skills), labels, f"{place}:skills")
    saved = Saved(skills, _tensors(folder), labels, _part(said, "record", dict, place), str(folder / ROUTER_FILE))
    composition = composer.restore(saved)
    check_parts(
        composition, saved, said.get("tensors"), place, bundled=any("bundled" in entry for entry in said["skills"])
    )
    composition.name = str(folder)
    if composition.model_fingerprints() != said.get("models", {}):
        named = ", ".join(f"`{key}`" for key in type(composer.options).models)
        raise InputError(f"a model that it names ({named}) was altered", where=f"{place}:models", fix=_AGAIN)
    return composition


def open_source(folder: str | Path, allow_pickle: bool) -> Source:
    """A saved composition, or what it is for one task (`FOLDER#TASK`), as a model that can be asked."""
    return opened(folder, allow_pickle).source()


def open_weights(folder: str | Path, allow_pickle: bool) -> Weights:
    """A saved composition as weights, where it folds.

    Raises:
        InputError: it chooses by input.
    """
    return opened(folder, allow_pickle).fold().applied(str(folder))


def opened(name: str | Path, allow_pickle: bool) -> Composition:
    """A saved composition, or what it is for one task (`FOLDER#TASK`)."""
    folder, task = folder_and_task(name)
    composition = load_composition(folder, allow_pickle=allow_pickle)
    return composition if task is None else composition.for_task(task)


def _entry(base: Weights, skill: ComposedSkill, folder: Path | None) -> dict[str, Any]:
    if folder is None or skill.opened is None:
        return {"name": skill.name, "fingerprint": skill.fingerprint, "path": found_from_anywhere(skill.reference)}
    place = Path(SKILLS_FOLDER) / f"{skill.name}.safetensors"
    (folder / SKILLS_FOLDER).mkdir(exist_ok=True)
    form = Form("low-rank") if all(skill.change.factors(name) for name in skill.change.names()) else Form("dense")
    store(skill.change, folder / place, form, "compose")
    kept = open_skill(skill.name, str(folder / place), base, "changes", False)
    return {"name": skill.name, "fingerprint": kept.fingerprint, "bundled": str(place)}


def _parameters(options: ComposerOptions) -> dict[str, Any]:
    """The options as plain data, with models that can be found from anywhere."""
    said = options.model_dump(mode="json")
    return {
        key: found_from_anywhere(value) if key in options.models and value else value for key, value in said.items()
    }


def _located(method: str, parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The parameters, with models that were moved together with the folder found beside it."""
    models = find_composer(method, f"{folder / MARKER}:method").Options.models
    return {
        key: _beside(folder, value) if key in models and is_line(value) else value for key, value in parameters.items()
    }


def found_from_anywhere(reference: str) -> str:
    """A path as it is found from every folder; the name of a hub model as it is."""
    # Not the methods of Path, which raise on homes of nobody and on names without end.
    path = os.path.expanduser(reference)
    return str(Path(path).resolve()) if os.path.exists(path) else reference


def _part(said: Mapping[str, Any], key: str, kind: type, place: Path) -> Any:
    value = said.get(key)
    if not isinstance(value, kind) or (kind is str and not is_line(value)):
        raise InputError(f"got {kind_of(value)}", where=f"{place}:{key}", fix=_AGAIN)
    return value


def _open_skills(folder: Path, said: Mapping[str, Any], members: Members, allow_pickle: bool) -> SkillSet:
    place = folder / MARKER
    base_said, entries = _part(said, "base", dict, place), _part(said, "skills", list, place)
    check_keys(base_said, ("path", "fingerprint"), f"{place}:base")
    reference, fingerprint = base_said.get("path"), base_said.get("fingerprint")
    if not is_line(reference) or not is_digest(fingerprint):
        raise InputError("its path or its fingerprint is damaged", where=f"{place}:base", fix=_AGAIN)
    base = open_model_weights(_base_beside(folder, reference), allow_pickle=allow_pickle)
    found: list[ComposedSkill] = []
    wrong: list[str] = []
    missing = False
    for number, entry in enumerate(entries):
        name, digest, path, bundled = _checked_entry(entry, f"{place}:skills[{number}]")
        where = str(folder / path) if bundled else _beside(folder, path)
        try:
            skill = open_skill(name, where, base, members, allow_pickle)
        except InputError as error:
            if Path(where).exists():
                wrong.append(f"{name} (sha256 {digest[:_SHOWN]}) cannot be opened: {error.what}")
            else:
                wrong.append(f"{name} (sha256 {digest[:_SHOWN]}) is missing at {where}")
                missing = True
            continue
        if skill.fingerprint != digest:
            wrong.append(f"{name} was altered (sha256 {skill.fingerprint[:_SHOWN]}, expected {digest[:_SHOWN]})")
        found.append(skill)
    headed = common_base(base, found)
    # A head that the skills carry belongs to the base, and is not there where no skill is.
    unknown = missing and not found
    if not unknown and headed.fingerprint() != fingerprint:
        raise InputError(
            f"its base is another one (sha256 {headed.fingerprint()[:_SHOWN]}, expected {fingerprint[:_SHOWN]})",
            where=place,
            fix=f"Put the base back at {reference}",
        )
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(entries)} skills cannot be used: {'; '.join(wrong)}",
            where=place,
            fix="Put them back, or compose it again",
        )
    return SkillSet(headed, str(reference), tuple(found))


def _checked_entry(entry: object, where: str) -> tuple[str, str, str, bool]:
    """(name, fingerprint, path, whether it is bundled) of a skill."""
    if not isinstance(entry, dict):
        raise InputError(f"got {kind_of(entry)}", where=where, fix=_AGAIN)
    name, digest = entry.get("name"), entry.get("fingerprint")
    bundled = "bundled" in entry
    check_keys(entry, ("name", "fingerprint", "bundled" if bundled else "path"), where)
    path = entry.get("bundled") if bundled else entry.get("path")
    if not is_line(name) or not is_digest(digest) or not is_line(path):
        raise InputError("its name, fingerprint or path is damaged", where=where, fix=_AGAIN)
    if bundled and (Path(path).is_absolute() or ".." in Path(path).parts):
        raise InputError(f"its file {path} is not inside the folder", where=where, fix=_AGAIN)
    return str(name), str(digest), str(path), bundled


def _beside(folder: Path, path: str) -> str:
    """A path as it was written, or where it lies when it was moved together with the folder."""
    moved = folder.parent / Path(path).name
    return str(moved) if os.path.isabs(path) and not Path(path).exists() and moved.exists() else path


def _base_beside(folder: Path, reference: str) -> str:
    """The base, each part of a sum as `_beside` finds it."""
    parts = [reference] if Path(reference).exists() else reference.split("+")
    return "+".join(_beside(folder, part) for part in parts)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / ROUTER_FILE
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise InputError("no such file", where=path, fix=_AGAIN) from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"is damaged ({one_line(error)})", where=path, fix=_AGAIN) from None
