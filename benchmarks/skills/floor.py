"""Reads files raw and writes as many bytes as are asked for: what any command that reads and writes so much takes.

`python -m benchmarks.skills.floor OUT BYTES FILE [FILE ...]`; the output is forced to the disk, as genepool's is.
"""

from __future__ import annotations

import mmap
import os
import sys

BUFFER_BYTES = 1 << 20


def read_and_write(out: str, nbytes: int, files: list[str]) -> None:
    """Reads `files` from beginning to end, and writes `nbytes` bytes."""
    # It begins with a page, as a file's pages do: see `benchmarks.merge.floor`.
    buffer = mmap.mmap(-1, BUFFER_BYTES)
    for name in files:
        with open(name, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with open(out, "wb", buffering=0) as written:
        with memoryview(buffer) as view:
            while nbytes > 0:
                with view[: min(nbytes, BUFFER_BYTES)] as part:
                    nbytes -= written.write(part)
        os.fsync(written.fileno())


if __name__ == "__main__":
    read_and_write(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
