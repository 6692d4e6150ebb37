"""What a model says of where it comes from: the names of models, as strangers' files have them.

Reads config.json, the card and adapter_config.json, headers alone; believes nothing more than that these are names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genepool.checked import is_line
from genepool.errors import InputError
from genepool.schema import parsed_documents
from genepool.weights import SkillFile
from genepool.weights.json_file import read_json

# A card is text for people; what it says of the base stands in the first lines.
_MOST_BYTES = 1 << 18
_ADAPTER, _CARD = "adapter_config.json", "README.md"


def origins_of(folder: Path | None, config: Any = None) -> tuple[str, ...]:
    """The models that a model, or the adapter in a folder, says it was made from; the surest first.

    Args:
        folder: where its config and card lie; None when there is none.
        config: its config.json, parsed.
    """
    found: list[Any] = []
    if folder is not None and folder.is_dir():
        adapter = _adapter_config(folder / _ADAPTER)
        found.append(adapter.get("base_model_name_or_path"))
        said = _front_matter(folder / _CARD).get("base_model")
        # A merge names all its models: none of them is its base.
        found += [said] if isinstance(said, str) else said if isinstance(said, list) and len(said) == 1 else []
    if config is not None:
        found.append(config.get("_name_or_path"))
    return tuple(dict.fromkeys(name for name in found if isinstance(name, str) and name.strip() and is_line(name)))


def origin_of_skill(path: Path) -> tuple[str, ...]:
    """The name of the base in a skill file's header, where it has one."""
    name = SkillFile(path).base_name
    return (name,) if name else ()


def _adapter_config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError:
        return {}


def _front_matter(path: Path) -> dict[str, Any]:
    """The YAML between the two lines of dashes that a card begins with."""
    if not path.is_file():
        return {}
    try:
        with open(path, "rb") as file:
            parts = file.read(_MOST_BYTES).decode("utf-8", errors="replace").split("---\n", 2)
        if len(parts) < 3 or parts[0].strip():
            return {}
        found = parsed_documents(parts[1], path)
    except (OSError, InputError):
        return {}
    return found[0] if len(found) == 1 and isinstance(found[0], dict) else {}
