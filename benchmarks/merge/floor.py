"""The floor of every merge: reads all input files and writes one of them out, through one page-aligned buffer.

`python -m benchmarks.merge.floor [--sync] [--written N] OUT FILE [FILE ...]`; with `--sync` the output is also forced
to the disk, as `genepool merge` does before it publishes a model; with `--written` the first N files are written, which
are the shards of one model. Imports next to nothing: it is timed as a whole process.
"""

from __future__ import annotations

import mmap
import os
import sys

# Large enough that calls cost nothing, small enough for the nearest large cache.
BUFFER_BYTES = 1 << 20


def copy_first_read_all(out: str, files: list[str], *, sync: bool, copied: int = 1) -> None:
    """Reads `files` from beginning to end and writes what the first `copied` hold to `out`."""
    # A mapping begins with a page, as the file's pages in memory do. A large `bytearray` begins 16 bytes into one, and
    # the kernel then copies three to four times as slowly on some processors (measured on AMD Zen 3).
    with mmap.mmap(-1, BUFFER_BYTES) as buffer, memoryview(buffer) as view, open(out, "wb", buffering=0) as written:
        for number, name in enumerate(files):
            with open(name, "rb", buffering=0) as file:
                while count := file.readinto(view):
                    start, end = 0, count if number < copied else 0
                    while start < end:
                        with view[start:end] as rest:
                            start += written.write(rest)
        if sync:
            os.fsync(written.fileno())


if __name__ == "__main__":
    arguments = sys.argv[1:]
    synced = arguments[0] == "--sync"
    arguments = arguments[synced:]
    several = arguments[0] == "--written"
    target, *inputs = arguments[2 * several :]
    copy_first_read_all(target, inputs, sync=synced, copied=int(arguments[1]) if several else 1)
