"""`python -m benchmarks.claims [--only CLAIM ...] [--beds BED ...] [--seeds 5]`: goes on where it was stopped."""

from __future__ import annotations

import argparse

from benchmarks.claims import page
from benchmarks.claims.measuring import lacking, measure_all
from benchmarks.claims.rows import CLAIMS
from benchmarks.claims.verdict import MOST_SEEDS
from benchmarks.claims.worlds import KINDS
from genepool import progress


def main() -> None:
    """Trains, merges and asks; prints the page, and writes it when every claim was asked on every testbed."""
    names, kinds = [claim.name for claim in CLAIMS], list(KINDS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=main.__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CLAIM", help=", ".join(names))
    parser.add_argument("--beds", nargs="+", choices=kinds, default=kinds, metavar="BED", help=", ".join(kinds))
    parser.add_argument("--seeds", type=int, default=5, help=f"how many, from 0 on; at most {MOST_SEEDS}")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    asked = parser.parse_args()
    if not 1 <= asked.seeds <= MOST_SEEDS:
        parser.error(f"--seeds {asked.seeds}: from 1 to {MOST_SEEDS} are possible")
    claims = [claim for claim in CLAIMS if claim.name in asked.only]
    for claim in claims:
        if missing := lacking(claim):
            progress.say(f"{claim.name} is left out: this version has no {', '.join(missing)}")
    claims = [claim for claim in claims if not lacking(claim)]
    measured = measure_all(claims, asked.beds, asked.seeds, asked.workers)
    rows = page.by_rows(claims, measured, asked.seeds)
    print(page.page(rows, asked.seeds))
    if len(claims) == len(CLAIMS) and len(asked.beds) == len(KINDS):
        page.write(rows, asked.seeds)


if __name__ == "__main__":
    main()
