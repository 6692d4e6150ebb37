"""Runs the benchmarks named on the command line, or all of them, and prints their tables as Markdown."""

from __future__ import annotations

import sys

from benchmarks import asking, merging, starting

BENCHMARKS = {"starting": starting.run, "merging": merging.run, "asking": asking.run}


def main() -> None:
    """`python -m benchmarks [name ...]`."""
    unknown = [name for name in sys.argv[1:] if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: no benchmark '{unknown[0]}'. There are: {', '.join(BENCHMARKS)}.")
    for name in sys.argv[1:] or BENCHMARKS:
        print(BENCHMARKS[name](), flush=True)


main()
