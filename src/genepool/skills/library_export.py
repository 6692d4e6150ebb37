"""Skills on their way between libraries: a folder with the file, a model card and what the catalogue says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from genepool.errors import InputError
from genepool.own_inputs import refuse_own_input
from genepool.skills.library import Library
from genepool.skills.library_entry import LibraryEntry
from genepool.skills.library_tree import Relative, ancestors, tree_lines
from genepool.staging import staged_folder
from genepool.weights.skill_file import SkillFile

SKILL, CARD, LINEAGE = "skill.safetensors", "README.md", "lineage.json"
# More than any header can say.
_MOST_BYTES = 16 << 20


def export(library: Library, reference: str, out: str | Path, *, overwrite: bool = False) -> LibraryEntry:
    """Writes a skill with its model card as a folder, whole or not at all.

    Args:
        library: where it is.
        reference: its name, or the beginning of its digest.
        out: the folder.
        overwrite: replace what is there.

    Raises:
        InputError: it is not there, its file is missing, the library lies in `out`, or `out` cannot be written.
    """
    refuse_own_input(out, [library.folder])
    kept = library.find(reference)
    path = library.path(kept.digest)
    if SkillFile(path).digest() != kept.digest:
        raise InputError("its file is damaged", where=path, fix="Run genepool library check")
    tree = ancestors(library, kept)
    said = {"schema": 1, **kept.to_dict(), "ancestors": [line.to_dict() for line in tree]}
    with staged_folder(Path(out), overwrite=overwrite) as folder:
        shutil.copyfile(path, folder / SKILL)
        (folder / CARD).write_text(card(kept, tree), encoding="utf-8")
        (folder / LINEAGE).write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return kept


def import_skill(library: Library, path: str | Path) -> tuple[LibraryEntry, bool]:
    """Adds what `export` wrote, with its name, tags, description and scores; or a lone skill file.

    Args:
        library: where to.
        path: the folder or the file.

    Returns:
        The skill, and whether it is new.

    Raises:
        InputError: no whole skill is there, or the catalogue's part of it is of another file.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_dir():
        return library.add(path)
    file, said = path / SKILL, path / LINEAGE
    if not said.is_file():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise InputError("is not an exported skill", where=path, fix=f"It needs {SKILL} and {LINEAGE}")
        return library.add(files[0])
    words = _read(said)
    if words.get("digest") != SkillFile(file).digest():
        raise InputError(f"it describes another file than {SKILL}", where=said, fix="Export or fetch the skill again")
    given = {key: words[key] for key in ("name", "description", "licence", "tags", "scores") if key in words}
    return library.add(file, **given)


def card(kept: LibraryEntry, tree: list[Relative]) -> str:
    """The model card: front matter for the Hugging Face hub, then words, scores and where it comes from."""
    front: dict[str, Any] = {"library_name": "genepool"}
    if kept.base_name:
        front |= {"base_model": kept.base_name, "base_model_relation": "adapter"}
    if kept.licence:
        front["license"] = kept.licence
    if kept.tags:
        front["tags"] = list(kept.tags)
    parts = ["---", yaml.safe_dump(front, allow_unicode=True, sort_keys=False).rstrip(), "---", "", f"# {kept.name}"]
    parts += ["", kept.description] if kept.description else []
    base = kept.base_name or kept.base_fingerprint[:12] or "its base"
    lost = f" Storing it lost {kept.error:.2%} of the change." if kept.error else ""
    parts += ["", f"A {kept.form} skill: a change of {kept.tensors:,} tensors of {base}.{lost} Apply it with genepool:"]
    parts += ["", "```", f"genepool skill apply {SKILL} --base BASE --out model", "```"]
    if kept.scores:
        parts += ["", "## Scores", "", "| task | score |", "|---|---|"]
        parts += [f"| {_cell(task)} | {score:.4g} |" for task, score in sorted(kept.scores.items())]
    operation = kept.lineage.get("operation")
    if operation or tree:
        parts += ["", "## Lineage", "", f"Made by {operation or 'an unknown operation'}{', of' if tree else '.'}"]
        parts += ["", "```", *tree_lines(tree), "```"] if tree else []
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _read(path: Path) -> dict[str, Any]:
    """What an export says, each part of the type it should have; nothing in it is trusted further."""
    with open(path, "rb") as file:
        text = file.read(_MOST_BYTES + 1)
    try:
        found = json.loads(text) if len(text) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    kinds = {"name": str, "description": str, "licence": str, "digest": str, "tags": list, "scores": dict}
    right = isinstance(found, dict) and all(isinstance(found[key], kind) for key, kind in kinds.items() if key in found)
    if not isinstance(found, dict) or not right or not all(isinstance(tag, str) for tag in found.get("tags", [])):
        raise InputError("is not the lineage of an export", where=path, fix="Export or fetch the skill again")
    return found
