"""`python -m benchmarks.faithful [--update]`: measures every method and strategy against its oracles."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from benchmarks.faithful import measures, merges, strategies
from genepool.faithful import FILE, HeldAgainst, table

KINDS: Mapping[str, Callable[[], Mapping[str, Sequence[HeldAgainst]]]] = {
    "genepool.merging": merges.measure,
    "genepool.evolution": strategies.measure,
    "genepool.measure": measures.measure,
}


def main() -> None:
    """Measures and prints the tables; with --update it also writes the records that the reference pages show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faithful", description=main.__doc__)
    parser.add_argument("--update", action="store_true", help="write the records into the package")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="PACKAGE")
    asked = parser.parse_args()
    for package in asked.only:
        found = KINDS[package]()
        for name, rows in found.items():
            print("\n".join([f"## {name}", "", *table(rows), ""]))
        if asked.update:
            data = {name: [row.to_dict() for row in rows] for name, rows in found.items()}
            Path(str(files(package))).joinpath(FILE).write_text(
                json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )


main()
