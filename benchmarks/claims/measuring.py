"""Asks claims on testbeds, one process for each testbed of each seed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from benchmarks.claims.breeding import BreedingWorld
from benchmarks.claims.claim import Claim, Measurement
from benchmarks.claims.rows import CLAIMS
from benchmarks.claims.worlds import BREEDING, World
from genepool import progress
from genepool.merging import Recipe, all_methods
from genepool.threads import torch_threads

# Claim, testbed, seed.
Key = tuple[str, str, int]


def lacking(claim: Claim) -> list[str]:
    """The methods and keys of recipes that a claim needs and this version does not have."""
    return sorted(set(claim.needs) - set(all_methods()) - set(Recipe.model_fields))


def measure_all(claims: Sequence[Claim], kinds: Sequence[str], seeds: int, workers: int) -> dict[Key, Measurement]:
    """Every claim on those of its testbeds that are in `kinds`, with seeds from 0 on."""
    names = [claim.name for claim in claims]
    units = [(kind, seed) for seed in range(seeds) for kind in kinds if any(kind in claim.beds for claim in claims)]
    measured: dict[Key, Measurement] = {}
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        progress.bar("asking the papers' claims", len(units), "testbeds") as bar,
        ProcessPoolExecutor(workers, mp_context=context) as pool,
    ):
        jobs = {pool.submit(measure, names, kind, seed): (kind, seed) for kind, seed in units}
        for job in as_completed(jobs):
            kind, seed = jobs[job]
            for name, measurement in job.result().items():
                measured[name, kind, seed] = measurement
            bar.advance()
            progress.message(f"{kind}, seed {seed}: asked")
    return measured


def measure(names: Sequence[str], kind: str, seed: int) -> dict[str, Measurement]:
    """The named claims on one testbed of one seed."""
    progress.set_quiet(True)
    with torch_threads(1):
        world = BreedingWorld(seed) if kind == BREEDING else World(kind, seed)
        return {claim.name: claim.measure(world) for claim in CLAIMS if claim.name in names and kind in claim.beds}
