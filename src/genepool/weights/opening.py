"""Opens what a user names: a folder, a file, a hub model, or any of these with adapters and skills added.

path/to/model            a Hugging Face folder or one safetensors file
org/name, org/name@rev   a model on the Hugging Face hub (the local cache is asked first)
model+adapter            a PEFT LoRA folder on its base
model+skill.safetensors  a genepool skill on its base
"""

from __future__ import annotations

import re
from pathlib import Path

from genepool.errors import InputError
from genepool.weights.adapter import CONFIG_FILE, LoraOnBase
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.overlay import SkillOnBase, is_skill
from genepool.weights.source import Weights

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]


def open_weights(reference: str | Path, *, relative_to: Path | None = None, base: Weights | None = None) -> Weights:
    """Opens the model that `reference` names; reads headers only.

    Args:
        reference: see the list above. A path that exists as written is taken as it is, "+" and "@" included.
        relative_to: folder that relative paths are looked up in first, as recipes do with their own.
        base: an already opened base. When the part before "+" names the same path, it is reused, and a lone
            adapter or skill is put on it.

    Raises:
        InputError: nothing is there, or what is there cannot be used.
    """
    text = str(reference)
    if not text.strip():
        raise InputError("an empty model name", fix="Name a folder, a file or a hub model")
    whole = _existing(text, relative_to)
    if whole is not None:
        return _open_one(whole, text, base)
    first, *additions = _split_additions(text, relative_to)
    reused = base is not None and first == base.name
    weights = base if base is not None and reused else _open_one(_locate(first, relative_to), first, base)
    for addition in additions:
        path = _locate(addition, relative_to)
        weights = _add(weights, path, f"{weights.name}+{addition}")
    return weights


def _open_one(path: Path, name: str, base: Weights | None) -> Weights:
    lone_addition = is_skill(path) or (path.is_dir() and (path / CONFIG_FILE).is_file())
    if lone_addition and not (path / "config.json").is_file():
        if base is None:
            raise InputError("an adapter or skill alone", where=path, fix=f"Write it as BASE+{name}")
        return _add(base, path, name)
    return Checkpoint(path, name)


def _add(weights: Weights, path: Path, name: str) -> Weights:
    if is_skill(path):
        return SkillOnBase(weights, path, name)
    if path.is_dir() and (path / CONFIG_FILE).is_file():
        return LoraOnBase(weights, path, name)
    raise InputError(
        "neither a PEFT adapter nor a genepool skill",
        where=path,
        fix="After '+' goes an adapter folder or a skill file",
    )


def _existing(text: str, relative_to: Path | None) -> Path | None:
    path = Path(text).expanduser()
    for candidate in ([relative_to / path] if relative_to and not path.is_absolute() else []) + [path]:
        if candidate.exists():
            return candidate
    return None


def _split_additions(text: str, relative_to: Path | None) -> list[str]:
    """Splits at "+", keeping together the pieces that exist as one path."""
    parts = text.split("+")
    pieces: list[str] = []
    while parts:
        for n in range(len(parts), 0, -1):
            piece = "+".join(parts[:n])
            if n == 1 or _existing(piece, relative_to) is not None:
                pieces.append(piece)
                parts = parts[n:]
                break
    return pieces


def _locate(text: str, relative_to: Path | None) -> Path:
    path = _existing(text, relative_to)
    if path is not None:
        return path
    name, _, revision = text.partition("@")
    if revision and (local := _existing(name, relative_to)) is not None:
        raise InputError(f"{local} is a local folder and has no revision '{revision}'", where=text, fix="Drop the '@'")
    if _HUB_ID.fullmatch(name):
        return _from_hub(name, revision or None)
    raise InputError("no such model: nothing is at this path", where=text, fix="Check the path")


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    from genepool import progress

    with progress.bar(f"fetching {name} from the hub"):
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
        except Exception as error:
            # The hub client raises a different class for each of: no network, no such model, gated, bad revision.
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(
                f"no folder of this name here, and the hub gave none ({type(error).__name__}: {reason})",
                where=name,
                fix="Check the path, or the network and the model's name",
            ) from None
