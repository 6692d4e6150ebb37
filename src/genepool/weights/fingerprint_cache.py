"""Remembers fingerprints of files by their path, size and times of change, so a checkpoint is hashed once.

One small file per entry under `$GENEPOOL_CACHE`, else `$XDG_CACHE_HOME/genepool`, else `~/.cache/genepool`; a cache
that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from genepool import staging
from genepool.checked import is_digest
from genepool.errors import InputError

#: Nanoseconds after which the file system's clock has moved on: two ticks of the slowest that Linux has.
_TICK = 20_000_000


def cache_folder() -> Path:
    """Where genepool keeps what it can compute again."""
    if chosen := os.environ.get("GENEPOOL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genepool"


# Entries that may be trusted while every file is hashed anew; None while all may.
_checked: set[Path] | None = None


def recheck(anew: bool) -> None:
    """Hashes every file once more in this process, whatever is remembered of it; or trusts what is remembered again."""
    global _checked
    _checked = set() if anew else None


def cached(paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """`compute()`, or its result of the last time if none of `paths` has changed since."""
    if (known := lookup(paths)) is not None:
        return known
    entry, settled = _entry(paths), _settled(paths)
    result = compute()
    if entry is not None:
        # Files that were written anew have another entry, so nobody else would come by what a kill left.
        staging.clear_left(entry.parent)
    # Files that were written meanwhile have no fingerprint to remember.
    if entry is not None and settled and _entry(paths) == entry:
        with contextlib.suppress(OSError, InputError):
            staging.write_text(entry, result)
            if _checked is not None:
                _checked.add(entry)
    return result


def lookup(paths: Sequence[Path]) -> str | None:
    """The remembered fingerprint of these files as they are now; None when it has not been computed."""
    if (entry := _entry(paths)) is not None and (_checked is None or entry in _checked):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = entry.read_text()
            if is_digest(text):
                return text
    return None


def _settled(paths: Sequence[Path]) -> bool:
    # A second change in one tick of the clock of files would leave no trace, so that tick has to be over.
    now = time.time_ns()
    with contextlib.suppress(OSError):
        return all(os.stat(path).st_ctime_ns < now - _TICK for path in paths)
    return False


def _entry(paths: Sequence[Path]) -> Path | None:
    # Another way to tell what is tied needs another entry.
    key = hashlib.sha256(b"2\x1e")
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            return None
        # The time of modification can be set back by whoever rewrites a file; that of change cannot.
        key.update(os.fsencode(os.path.realpath(path)))
        key.update(f"\x1f{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\x1e".encode())
    return cache_folder() / "fingerprints" / key.hexdigest()
