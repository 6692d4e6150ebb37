"""`python -m benchmarks.policies [measure | page]`: measures what is missing, and writes docs/policies.md.

Cells are added to cells.jsonl one by one, so a run that was stopped goes on with the next one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.policies.arms import ARMS, Arm, Measured
from benchmarks.policies.claims import CLAIMS, SEEDS, Scores
from genepool import progress, testbed
from genepool.testbed.policies.worlds import AS_IT_IS, BETWEEN, DEFAULT_WORLDS, LANDERS, WORLDS

CELLS = Path(__file__).parent / "cells.jsonl"
# Testbeds are built once and asked by every arm.
BEDS = Path(tempfile.gettempdir()) / "genepool-policies"
PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
_TASKS = (*DEFAULT_WORLDS, BETWEEN.name, AS_IT_IS.name)
_LANDER_TASKS = (*LANDERS, BETWEEN.name, AS_IT_IS.name)


def known(path: Path = CELLS) -> dict[tuple[int, str], dict[str, Any]]:
    """What was measured, by seed and arm."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["seed"], row["arm"]): row for row in rows}


def measure(seeds: int, *, tiny: bool, minutes: float | None, path: Path = CELLS) -> int:
    """Measures the cells that are missing; how many still are."""
    start, missing = time.monotonic(), 0
    # All seeds of an arm before the next arm: a claim needs all of them.
    for arm in ARMS:
        for seed in range(seeds):
            if (seed, arm.name) in known(path):
                continue
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                missing += 1
                continue
            began = time.process_time()
            with tempfile.TemporaryDirectory() as work:
                scores, said = _measured(arm, seed, Path(work), tiny)
            row = {"seed": seed, "arm": arm.name, "seconds": round(time.process_time() - began, 1), "said": said}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({**row, "scores": scores}) + "\n")
            progress.message(f"seed {seed}, {arm.name}: {_means(scores)}")
    return missing


def _measured(arm: Arm, seed: int, work: Path, tiny: bool) -> Measured:
    place = BEDS / f"{'policies' if arm.skills is None else 'landers'}{'-tiny' if tiny else ''}-{seed}"
    bed = testbed.build(place, bed="policies", tiny=tiny, seed=seed, skills=arm.skills)
    return arm.measure(bed, seed, work)


def _means(scores: Scores) -> str:
    return ", ".join(f"{task} {sum(one) / len(one):.2f}" for task, one in scores.items())


def page(cells: Mapping[tuple[int, str], Mapping[str, Any]]) -> str:
    """docs/policies.md."""
    scores = {key: row["scores"] for key, row in cells.items()}
    seeds = sorted({seed for seed, _ in scores})
    points = [
        "The testbed is `genepool testbed build DIR --bed policies --tiny`: a base that balances Gymnasium's own pole, "
        "and an adapter for each of four other poles, evolved by CMA-ES: "
        f"{', '.join(f'`{name}` is {world.does}' for name, world in WORLDS.items())}.",
        "A composer is given the four adapters and 24 training episodes of each task, in which the task's own adapter "
        "shows what is right. It is asked 24 test episodes of each of the four poles, of `between` (lengths that no "
        "adapter saw) and of `generic`. The score is the share of the steps that the pole stands.",
        "`psec` takes 150 steps of at most 256 inputs of each task at a step size of 0.001, in every space, and no "
        "skill pulls. `l2m` and `cotasp` have their defaults. `cotasp` is told the task.",
        "Nothing that a policy observes says how long the pole is.",
        f"Seeds {', '.join(map(str, seeds))}; each has its own testbed.",
        f"Landers are those of `--skills {','.join(LANDERS)}`: "
        f"{', '.join(f'`{name}` is {world.does}' for name, world in LANDERS.items())}; `between` is halfway to either "
        "price. Their base copies Gymnasium's own rule, and an adapter is evolved for each of the two rewards. The "
        "score is the return, on a scale on which -600 is 0 and 300 is 1. This needs Box2D "
        '(`pip install "genepool[landers]"`).',
    ]
    lines = [
        "# Policies",
        "",
        "How well compositions of policies balance poles of four lengths and land with two rewards, and what is",
        "claimed of them. `python -m benchmarks.policies --tiny` measures and writes this page;",
        "`benchmarks/policies/cells.jsonl` keeps every episode.",
        "",
        *(textwrap.fill(f"- {point}", 118, subsequent_indent="  ", break_on_hyphens=False) for point in points),
        "",
        "## Scores",
        "",
        "Means over the seeds.",
        "",
        *_table([arm for arm in ARMS if arm.skills is None], _TASKS, cells, seeds),
        "",
        "### Landers",
        "",
        *(_table([arm for arm in ARMS if arm.skills is not None], _LANDER_TASKS, cells, seeds)),
    ]
    lines += [
        "",
        "## Claims",
        "",
        "Rules were written before the figures. An interval is Student's t over the seeds.",
        "",
        "| claim | source | figure | verdict | rule |",
        "|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        figure, _ = claim.figure(scores)
        text = "–" if figure is None else figure.text()
        verdict = claim.verdict(scores)
        lines.append(f"| {claim.words} ({claim.name}) | {claim.source} | {text} | {verdict} | {claim.rule.words} |")
    return "\n".join([*lines, ""])


def _table(
    arms: Sequence[Arm], tasks: Sequence[str], cells: Mapping[tuple[int, str], Mapping[str, Any]], seeds: Sequence[int]
) -> list[str]:
    """The scores of some arms; a line that says so where none was measured."""
    lines = []
    for arm in arms:
        own = [seed for seed in seeds if (seed, arm.name) in cells]
        if not own:
            continue
        means = [_mean_of([cells[seed, arm.name]["scores"] for seed in own], task) for task in tasks]
        seconds = sum(cells[seed, arm.name]["seconds"] for seed in own) / len(own)
        lines.append(f"| {arm.name} | {len(own)} | {' | '.join(means)} | {seconds:.0f} |")
    if not lines:
        return ["Not measured yet."]
    head = f"| arm | seeds | {' | '.join(f'`{task}`' for task in tasks)} | CPU s |"
    return [head, f"|---|---|{'---|' * len(tasks)}---|", *lines]


def _mean_of(found: list[Scores], task: str) -> str:
    known_there = [one[task] for one in found if task in one]
    return f"{sum(sum(one) / len(one) for one in known_there) / len(known_there):.2f}" if known_there else "–"


def main() -> None:
    """Measures or writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("measure", "page"), default="measure")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0 on")
    parser.add_argument("--tiny", action="store_true", help="on the tiny testbed")
    parser.add_argument("--minutes", type=float, help="begin no other cell after so many minutes")
    asked = parser.parse_args()
    if asked.what == "measure":
        progress.set_quiet(False)
        missing = measure(asked.seeds, tiny=asked.tiny, minutes=asked.minutes)
        progress.message(f"{missing} cells are missing" if missing else "every cell is there")
    PAGE.write_text(page(known()), encoding="utf-8")


if __name__ == "__main__":
    main()
