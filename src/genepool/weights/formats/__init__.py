"""File formats of weights, one file each beside this one; a format is found by being there.

Asked by `checkpoint`, `adapter`, `remote` and `hub` for what a file is and what the files of a model are called.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from genepool.errors import InputError
from genepool.folder_classes import classes_of
from genepool.weights.formats.tensor_file import TensorFile
from genepool.weights.wrappers import unwrapped

__all__ = ["NEED_ASKING", "TensorFile", "format_of", "formats", "open_adapter", "open_file", "usable_formats"]

NEED_ASKING = "Convert it to safetensors (transformers' save_pretrained does), or allow it: --allow-pickle"


@cache
def formats() -> tuple[type[TensorFile], ...]:
    """Every format, the preferred one first."""
    return tuple(sorted(classes_of(__name__, TensorFile), key=lambda kind: kind.preference))


def usable_formats(allow_pickle: bool) -> list[type[TensorFile]]:
    """The formats that may be opened: those that run no code, and the others where the user asked for them."""
    return [kind for kind in formats() if allow_pickle or not kind.runs_code]


def format_of(path: Path) -> type[TensorFile] | None:
    """The format of a file: by its first bytes where they tell, else by its suffix; None when neither does."""
    with open(path, "rb") as file:
        head = file.read(max(len(kind.magic) for kind in formats()))
    marked = (kind for kind in formats() if kind.magic and head.startswith(kind.magic))
    return next(marked, None) or next((kind for kind in formats() if path.suffix in kind.suffixes), None)


def open_file(path: Path, kind: type[TensorFile], allow_pickle: bool) -> TensorFile:
    """Opens a file of a known format.

    Raises:
        InputError: it could run code and that was not allowed, or it is damaged.
    """
    if kind.runs_code and not allow_pickle:
        raise InputError(f"is a {kind.title}, which can run code when it is opened", where=path, fix=NEED_ASKING)
    return kind(path)


def open_adapter(folder: Path, allow_pickle: bool) -> TensorFile:
    """The weights of a PEFT adapter, in the first format that the folder has them in.

    Raises:
        InputError: there are none, or only such as could run code and were not allowed.
    """
    named = [kind for kind in formats() if kind.adapter_file]
    kind = next((kind for kind in named if (folder / kind.adapter_file).is_file()), named[0])
    if kind.runs_code and not allow_pickle:
        raise InputError(
            f"holds only is a {kind.title}, which can run code when it is opened", where=folder, fix=NEED_ASKING
        )
    files, _ = unwrapped([kind(folder / kind.adapter_file)])
    return files[0]
