"""What racing and screening spare: `python -m benchmarks.evolve.thrift [--seeds 5] [--evaluations 400]`.

The same search (CMA-ES over DARE-TIES) without either and with each, on the worlds of `quality`: examples asked in the
search and what the winner is worth on the test split, in pairs.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.evolve.quality import _DARE, _study, interval
from benchmarks.evolve.world import World, world
from genepool import progress
from genepool.evolution import run_study

WAYS: dict[str, dict[str, Any]] = {
    "everything": {},
    "race: halving": {"race": "halving"},
    "race: test": {"race": "test"},
    "screen": {"screen": True},
    "race: halving, screen": {"race": "halving", "screen": True},
}


def spent(place: World, name: str, changes: dict[str, Any], evaluations: int) -> tuple[int, float]:
    """Examples the search asked, and the winner's mean on test."""
    from genepool.evolution.store import StudyStore

    slug = "".join(letter if letter.isalpha() else "-" for letter in name)
    out = place.folder / "thrift" / slug
    # A ledger of its own: what another arm asked would be free.
    study = _study(place, budget={"evaluations": evaluations}, strategy="cma_es", **changes, **_DARE)
    best = run_study(study, out, ledger=place.folder / f"thrift-{slug}.sqlite").best
    with StudyStore(out / "study.sqlite") as store:
        return store.examples_of_the_search(), best["curse"]["test"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evolve.thrift", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=400)
    asked = parser.parse_args()
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in WAYS}
    for seed in range(asked.seeds):
        place = world(seed, tiny=True)
        for name, changes in WAYS.items():
            found[name].append(spent(place, name, changes, asked.evaluations))
            progress.message(f"seed {seed}, {name}: {found[name][-1]}")
    print("| search | examples asked | saved | test | against everything |\n|---|--:|--:|--:|--:|")
    plain = found["everything"]
    for name, rows in found.items():
        asked_for = statistics.fmean(row[0] for row in rows)
        saved = statistics.fmean(row[0] for row in plain) / asked_for
        against = interval([row[1] - other[1] for row, other in zip(rows, plain, strict=True)])
        print(f"| {name} | {asked_for:,.0f} | {saved:.1f}x | {interval([row[1] for row in rows])} | {against} |")


if __name__ == "__main__":
    main()
