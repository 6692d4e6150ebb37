"""What is in the files that prompts of a stream name: part of a stream's digest, whatever a file is called.

Files of others: those outside the folder, missing or too large count as none. `stream` uses it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from genepool.tasks.images import MAX_BYTES

# A prompt that is longer names no file.
_LONGEST_NAME = 1000


def content_digest(folder: Path | None, prompt: str | None) -> str:
    """SHA-256, hex, of the file within a folder that a prompt names; empty where it names none."""
    if folder is None or not prompt or len(prompt) > _LONGEST_NAME:
        return ""
    try:
        path = (folder / prompt).resolve()
        return file_digest(path) if path.is_relative_to(folder.resolve()) else ""
    except (OSError, ValueError):
        return ""


def file_digest(path: Path) -> str:
    """SHA-256, hex, of a file; empty where there is none, or one that is too large for an image."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""
