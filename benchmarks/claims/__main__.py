"""`python -m benchmarks.claims [--only CLAIM ...] [--beds BED ...] [--seeds 5]`: goes on where it was stopped."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from benchmarks.claims import page
from benchmarks.claims.rows import CLAIMS, Claim, Measurement
from benchmarks.claims.verdict import MOST_SEEDS
from benchmarks.claims.worlds import KINDS, World
from genepool import progress
from genepool.merging import all_methods
from genepool.threads import torch_threads

Key = tuple[str, str, int]


def main() -> None:
    """Trains, merges, asks, and writes the page when every claim was asked on every testbed."""
    names = [claim.name for claim in CLAIMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="claims to ask; the page is not written"
    )
    parser.add_argument("--beds", nargs="+", choices=list(KINDS), default=list(KINDS), help="testbeds to ask them on")
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, MOST_SEEDS + 1), help="how many, from 0 on")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    asked = parser.parse_args()
    claims = [claim for claim in CLAIMS if claim.name in asked.only]
    missing = {claim.name: sorted(set(claim.needs) - set(all_methods())) for claim in claims}
    for name, methods in missing.items():
        if methods:
            print(f"{name} is left out: there is no method {', '.join(methods)}", file=sys.stderr)
    claims = [claim for claim in claims if not missing[claim.name]]
    measured = _measure_all(claims, asked.beds, asked.seeds, asked.workers)
    rows = page.by_rows(claims, measured, asked.seeds)
    print(page.page(rows, asked.seeds))
    if len(claims) == len(CLAIMS) and len(asked.beds) == len(KINDS):
        page.write(rows, asked.seeds)


def _measure_all(claims: Sequence[Claim], kinds: Sequence[str], seeds: int, workers: int) -> dict[Key, Measurement]:
    units = [(kind, seed) for seed in range(seeds) for kind in kinds if any(kind in claim.beds for claim in claims)]
    measured: dict[Key, Measurement] = {}
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        progress.bar("asking the papers' claims", len(units), "testbeds") as bar,
        ProcessPoolExecutor(workers, mp_context=context) as pool,
    ):
        jobs = {pool.submit(_measure, [c.name for c in claims], kind, seed): (kind, seed) for kind, seed in units}
        for job in as_completed(jobs):
            kind, seed = jobs[job]
            for name, measurement in job.result().items():
                measured[name, kind, seed] = measurement
            bar.advance()
            progress.say(f"{kind}, seed {seed}: asked")
    return measured


def _measure(names: Sequence[str], kind: str, seed: int) -> dict[str, Measurement]:
    """Every claim on one testbed of one seed; runs in a process of its own."""
    progress.set_quiet(True)
    with torch_threads(1):
        world = World(kind, seed)
        return {claim.name: claim.measure(world) for claim in CLAIMS if claim.name in names and kind in claim.beds}


if __name__ == "__main__":
    main()
