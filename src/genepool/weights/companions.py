"""Config and tokenizer that lie in no folder of their own, written to the cache as a folder that loaders can read.

A file of weights carries them in its header, and a merge of different vocabularies makes a tokenizer. A folder is made
once; where the cache cannot be written it is a temporary one. Used by `checkpoint` and `vocabulary`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
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
    times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
    key = f"{_VERSION}\x1f{os.path.realpath(file.path)}\x1f{stat.st_size}\x1f{times}\x1f{stat.st_ino}"
    return cached_folder("companions", key, file.path.stem, file.companions, file)


def cached_folder(kind: str, key: str, name: str, files: Callable[[], Mapping[str, str]], owner: object) -> Path:
    """A folder of text files in the cache, made when it is first asked for.

    Args:
        kind: the part of the cache it belongs to.
        key: what decides the files.
        name: what the folder is called.
        files: their names and texts.
        owner: a folder that is temporary goes when this does.
    """
    folder = cache_folder() / kind / hashlib.sha256(key.encode()).hexdigest()[:32] / name
    if folder.is_dir():
        return folder
    texts = files()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    except OSError:
        made = Path(tempfile.mkdtemp(prefix="genepool-"))
        weakref.finalize(owner, shutil.rmtree, made, ignore_errors=True)
        _fill(made, texts)
        return made
    _fill(made, texts)
    try:
        made.rename(folder)
    except OSError:
        # Another process made the same folder first.
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _fill(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
