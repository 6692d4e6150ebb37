"""`python -m benchmarks.claims [--only CLAIM ...] [--beds BED ...] [--update]`: goes on where it was stopped."""

from __future__ import annotations

import argparse

from benchmarks.claims import page
from benchmarks.claims.measuring import lacking, measure_all
from benchmarks.claims.rows import CLAIMS
from benchmarks.claims.verdict import MOST_SEEDS
from benchmarks.claims.worlds import KINDS
from genepool import progress

SEEDS = 5


def main() -> None:
    """Trains, merges and asks; prints the page, and writes it when nothing was left out by the options."""
    names, kinds = [claim.name for claim in CLAIMS], list(KINDS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=main.__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CLAIM", help=", ".join(names))
    parser.add_argument("--beds", nargs="+", choices=kinds, default=kinds, metavar="BED", help=", ".join(kinds))
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from 0 on; at most {MOST_SEEDS}")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--update", action="store_true", help="renew these rows of the page, and leave the others")
    asked = parser.parse_args()
    if asked.update and asked.seeds != SEEDS:
        parser.error(f"--update needs the page's {SEEDS} seeds")
    if not 1 <= asked.seeds <= MOST_SEEDS:
        parser.error(f"--seeds {asked.seeds}: from 1 to {MOST_SEEDS} are possible")
    claims = [claim for claim in CLAIMS if claim.name in asked.only]
    unavailable = {claim.name: lacks for claim in claims if (lacks := lacking(claim))}
    for name, lacks in unavailable.items():
        progress.message(f"{name} is left out: this version has no {', '.join(lacks)}")
    claims = [claim for claim in claims if claim.name not in unavailable]
    measured = measure_all(claims, asked.beds, asked.seeds, asked.workers)
    rows = page.by_rows(claims, measured, asked.seeds)
    print(page.page(rows, asked.seeds, unavailable))
    if asked.update:
        page.write(page.by_rows(CLAIMS, {**page.recorded(), **measured}, SEEDS), SEEDS, unavailable)
    elif (set(asked.only), set(asked.beds), asked.seeds) == (set(names), set(kinds), SEEDS):
        page.write(rows, asked.seeds, unavailable)


if __name__ == "__main__":
    main()
