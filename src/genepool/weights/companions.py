"""Config and tokenizer that a file of weights carries in its header, as a folder that loaders can read.

The folder lies in the cache, named by the file as it is now, and is made once; where the cache cannot be written it is
a temporary one. Used by `checkpoint`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from genepool.weights.fingerprint_cache import cache_folder
from genepool.weights.formats import TensorFile

# Part of the folder's name: another way to make the files needs another folder.
_VERSION = 1


def companion_folder(file: TensorFile) -> Path:
    """The folder with what `file.companions()` gives.

    Raises:
        InputError: what the file carries makes no sense.
    """
    stat = os.stat(file.path)
    key = f"{_VERSION}\x1f{os.path.realpath(file.path)}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\x1f{stat.st_ino}"
    folder = cache_folder() / "companions" / hashlib.sha256(key.encode()).hexdigest()[:32] / file.path.stem
    if folder.is_dir():
        return folder
    files = file.companions()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    except OSError:
        made = Path(tempfile.mkdtemp(prefix="genepool-"))
        weakref.finalize(file, shutil.rmtree, made, ignore_errors=True)
        _fill(made, files)
        return made
    _fill(made, files)
    try:
        made.rename(folder)
    except OSError:
        # Another process made the same folder first.
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
