"""Remembers fingerprints of files by their path, size and time of change, so a checkpoint is hashed once.

One small file per entry under `$GENEPOOL_CACHE`, else `$XDG_CACHE_HOME/genepool`, else `~/.cache/genepool`; a cache
that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from genepool import staging
from genepool.checked import is_digest
from genepool.errors import InputError


def cache_folder() -> Path:
    """Where genepool keeps what it can compute again."""
    if chosen := os.environ.get("GENEPOOL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genepool"


def cached(paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """`compute()`, or its result of the last time if none of `paths` has changed since."""
    if (known := lookup(paths)) is not None:
        return known
    result = compute()
    with contextlib.suppress(OSError, InputError):
        staging.write_text(_entry(paths), result)
    return result


def lookup(paths: Sequence[Path]) -> str | None:
    """The remembered fingerprint of these files as they are now; None when it has not been computed."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = _entry(paths).read_text()
        if is_digest(text):
            return text
    return None


def _entry(paths: Sequence[Path]) -> Path:
    # Another way to tell what is tied needs another entry.
    key = hashlib.sha256(b"2\x1e")
    for path in paths:
        stat = os.stat(path)
        key.update(f"{os.path.realpath(path)}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\x1f{stat.st_ino}\x1e".encode())
    return cache_folder() / "fingerprints" / key.hexdigest()
