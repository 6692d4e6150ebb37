"""Reads files raw and writes as many bytes as are asked for: what any command that reads and writes so much takes.

`python -m benchmarks.skills.floor OUT BYTES FILE [FILE ...]`; the output is forced to the disk, as genepool's is.
"""

from __future__ import annotations

import os
import sys

BUFFER_BYTES = 1 << 24


def read_and_write(out: str, nbytes: int, files: list[str]) -> None:
    """Reads `files` from beginning to end, and writes `nbytes` bytes."""
    buffer = bytearray(BUFFER_BYTES)
    for name in files:
        with open(name, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with open(out, "wb", buffering=0) as written:
        while nbytes > 0:
            nbytes -= written.write(memoryview(buffer)[: min(nbytes, BUFFER_BYTES)])
        os.fsync(written.fileno())


if __name__ == "__main__":
    read_and_write(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
