"""What a testbed folder holds and whether it is whole: its layout and its manifest.

Light: reads JSON and hashes files, never torch. `builder` publishes through it, and a second build returns from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genepool.checked import is_digest, is_text, numbers
from genepool.errors import InputError
from genepool.staging import write_text

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Testbed:
    """A finished testbed on the disk.

    Attributes:
        folder: the whole of it, absolute.
        base: the base model's folder.
        full: the fully fine-tuned specialists' folders by skill.
        lora: the PEFT adapters' folders by skill; some testbeds, such as the digits, have none.
        tasks: the folder of task folders: one a skill, `generic`, and others that a testbed has.
        manifest: what manifest.json says: settings, versions, training and scores of each model, file hashes.
        cached: whether it was already there.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    folder: Path
    base: Path
    full: dict[str, Path]
    lora: dict[str, Path]
    tasks: Path
    manifest: dict[str, Any] = field(repr=False)
    cached: bool = False


def describe(folder: Path, manifest: dict[str, Any], *, cached: bool) -> Testbed:
    """The testbed in `folder`, as its manifest tells."""
    settings = manifest["settings"]
    skills = settings["skills"]
    adapters = [skill for skill in skills if f"lora/{skill}" in manifest["models"]]
    return Testbed(
        folder=folder,
        base=folder / "base",
        full={skill: folder / "full" / skill for skill in skills},
        lora={skill: folder / "lora" / skill for skill in adapters},
        tasks=folder / "tasks",
        manifest=manifest,
        cached=cached,
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the testbed in `folder`; None when there is none that this version can read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(manifest, dict) and manifest.get("genepool_testbed") == FORMAT
    return manifest if known and _is_whole(manifest) else None


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether everything that is used is there, and no name leads out of the folder."""
    settings, files, models = (manifest.get(key) for key in ("settings", "files", "models"))
    if not is_text(manifest.get("digest")) or not isinstance(settings, dict) or not isinstance(models, dict):
        return False
    skills = settings.get("skills")
    if not isinstance(skills, list) or not all(isinstance(one, str) and re.fullmatch(r"\w+", one) for one in skills):
        return False
    if not isinstance(files, dict) or not all(map(is_digest, files.values())):
        return False
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        return False
    try:
        return all(numbers(model["scores"], 0, 1) for model in models.values())
    except (ValueError, KeyError, TypeError):
        return False


def find_finished(folder: Path, digest: str, *, overwrite: bool) -> dict[str, Any] | None:
    """The manifest of the testbed that is already in `folder`, whole and of the settings asked for.

    Args:
        digest: the hash of the settings asked for.
        overwrite: whether anything else found there may be replaced; then the answer is None.

    Raises:
        InputError: `folder` holds something else, a testbed of other settings, or one that was changed since.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    manifest = read_manifest(folder)
    if manifest is None:
        if overwrite:
            return None
        raise InputError(
            "holds something else than a finished testbed",
            where=folder,
            fix="Name a new folder, or pass --overwrite",
        )
    if manifest["digest"] != digest:
        if overwrite:
            return None
        raise InputError(
            f"this testbed was built with other settings ({_words(manifest['settings'])})",
            where=folder,
            fix="Name a new folder, or pass --overwrite",
        )
    damaged = changed_files(folder, manifest["files"])
    if damaged:
        if overwrite:
            return None
        raise InputError(
            "this file of the testbed is missing or was changed since it was built",
            where=folder / damaged[0],
            fix="Pass --overwrite to build the testbed again",
        )
    return manifest


def _words(settings: dict[str, Any]) -> str:
    size = "tiny" if settings.get("tiny") else "default size"
    kind = settings.get("regime") or settings.get("bed")
    return f"{size}, {kind}, seed {settings.get('seed')}, {','.join(settings.get('skills', []))}"


def changed_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Those of `files` (relative path to SHA-256) whose content in `folder` is no longer that."""
    return [name for name, digest in sorted(files.items()) if _hash_or_none(folder / name) != digest]


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its path relative to it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}


def hash_file(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_or_none(path: Path) -> str | None:
    try:
        # A device never ends.
        return hash_file(path) if path.is_file() else None
    except OSError:
        return None


def settle_adapters(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Makes the adapters name the base beside them again after the folder was moved or copied.

    PEFT resolves a relative base from the reader's working folder, so adapters carry an absolute one; this brings it
    up to date. Returns the manifest, with the new hashes if anything changed.
    """
    adapters = describe(folder, manifest, cached=True).lora.values()
    stale = [adapter for adapter in adapters if _base_of(adapter) != str(folder / "base")]
    if not stale:
        return manifest
    files = dict(manifest["files"])
    for adapter in stale:
        path = adapter / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(folder / "base")
        write_text(path, json.dumps(config, indent=2, sort_keys=True))
        files[path.relative_to(folder).as_posix()] = hash_file(path)
    manifest = {**manifest, "files": files}
    write_manifest(folder, manifest)
    return manifest


def _base_of(adapter: Path) -> str:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return str(config["base_model_name_or_path"])


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json, whole."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
