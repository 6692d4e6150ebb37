"""The floor of every merge: reads all input files and writes one of them out, through a 16 MB buffer.

`python -m benchmarks.merge.floor [--sync] OUT FILE [FILE ...]`; with `--sync` the output is also forced to the disk, as
`genepool merge` does before it publishes a model. Imports next to nothing: it is timed as a whole process.
"""

from __future__ import annotations

import os
import sys

BUFFER_BYTES = 1 << 24


def copy_first_read_all(out: str, files: list[str], *, sync: bool) -> None:
    """Reads `files` from beginning to end and writes what the first one holds to `out`."""
    buffer = bytearray(BUFFER_BYTES)
    with open(out, "wb", buffering=0) as written:
        for number, name in enumerate(files):
            with open(name, "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    rest = memoryview(buffer)[: count if number == 0 else 0]
                    while rest:
                        rest = rest[written.write(rest) :]
        if sync:
            os.fsync(written.fileno())


if __name__ == "__main__":
    arguments = sys.argv[1:]
    synced = arguments[0] == "--sync"
    target, *inputs = arguments[synced:]
    copy_first_read_all(target, inputs, sync=synced)
