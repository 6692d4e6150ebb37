"""The state of an adaptation on the disk: tensors as safetensors, all else as JSON, whole or not at all.

Somebody else may have written the files, so nothing in them is trusted. Uses staging and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.adaptation.adapter import AdapterState
from genepool.bounded import read_text
from genepool.checked import is_whole, parsed_json
from genepool.errors import InputError, one_line, refuse_newer
from genepool.staging import staged_folder

if TYPE_CHECKING:
    import torch

TENSORS_FILE, VALUES_FILE = "state.safetensors", "state.json"
FORMAT = 1
_KEYS: dict[str, Callable[[Any], bool]] = {
    "identity": lambda one: isinstance(one, dict),
    "adapter": lambda one: isinstance(one, dict),
    "watch": lambda one: isinstance(one, dict),
    "batches": lambda one: is_whole(one, 0),
    "position": lambda one: is_whole(one, 0),
    "stopped": lambda one: isinstance(one, bool),
}


def write_state(folder: Path, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> Path:
    """Writes a state, replacing an earlier one.

    Args:
        folder: where it appears.
        tensors: by name.
        values: plain data.

    Raises:
        InputError: the folder holds something else than a state, or cannot be written.
    """
    from safetensors.torch import save_file

    if folder.is_dir() and any(folder.iterdir()) and not (folder / VALUES_FILE).is_file():
        raise InputError("holds something else than a state", where=folder, fix="Name another folder")
    with staged_folder(folder, overwrite=True) as unfinished:
        # safetensors takes a tensor without entries, and no file without tensors.
        save_file(dict(tensors), unfinished / TENSORS_FILE, metadata={"format": "pt"})
        text = json.dumps({"genepool_stream_state": FORMAT, **values}, indent=2, allow_nan=False)
        (unfinished / VALUES_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def has_state(folder: Path) -> bool:
    """Whether a state lies in a folder."""
    return (folder / VALUES_FILE).is_file()


def read_state(folder: Path) -> tuple[AdapterState, dict[str, Any]]:
    """The state in a folder: the adapter's tensors, and all values.

    Raises:
        InputError: there is none, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / VALUES_FILE
    if not path.is_file():
        raise InputError("holds no state", where=folder, fix="Name a folder that `save` wrote")
    try:
        values = parsed_json(read_text(path, fix="Remove the folder to begin again"))
    except ValueError as error:
        raise InputError(f"is damaged ({error})", where=path, fix="Remove the folder to begin again") from None
    if isinstance(values, dict):
        refuse_newer("state", values.get("genepool_stream_state"), FORMAT, path)
    good = isinstance(values, dict) and values.get("genepool_stream_state") == FORMAT
    if not good or (wrong := next((key for key, fits in _KEYS.items() if not fits(values.get(key))), None)):
        key = f":{wrong}" if good else ""
        raise InputError("is damaged", where=f"{path}{key}", fix="Remove the folder to begin again")
    try:
        tensors = load_file(folder / TENSORS_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot be read ({one_line(error)})", where=folder / TENSORS_FILE, fix="Remove the folder to begin again"
        ) from None
    return AdapterState(tensors, values["adapter"]), values
