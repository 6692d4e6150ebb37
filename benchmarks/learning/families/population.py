"""Population based training against random search at equal steps, and against the schedule that it found."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims.verdict import better
from benchmarks.claims.worlds import GENERIC
from benchmarks.learning.arm import Arm
from benchmarks.learning.bed import BATCH, TARGET, Learned, LearningBed
from benchmarks.learning.claim import LearningClaim, scored
from genepool.evolution import Study, run_study

#: Trainings side by side, turns of each, and steps of a turn.
_POPULATION, _TURNS, _TURN = 6, 5, 12
#: Whose mean is to be raised, from the half-known model on.
_TASKS = (TARGET, "sort", GENERIC)
_VALID = 128


def _searched(share: float, bed: LearningBed) -> tuple[Learned, Path]:
    """The winner of a study, and its folder; a share of 0 is random search."""
    if (name := f"population {share}") not in bed.shelf:
        out = bed.work / name.replace(" ", "-")
        study = Study(
            base=bed.base_name, skills=(bed.half.model,), seed=bed.seed,
            vary={"kind": "adapters", "learn": {"steps": _TURN, "batch": BATCH}},
            strategy={"name": "pbt", "options": {
                "population": _POPULATION, "share": share, "rate": [1e-4, 1e-2], "mix": True}},
            tasks={"dir": str(bed.bed.tasks), "names": list(_TASKS), "valid": _VALID, "test": 1},
            budget={"evaluations": _POPULATION * _TURNS}, finalists=0,
        )  # fmt: skip
        winner = run_study(study, out, ledger=out.with_suffix(".sqlite")).winner
        adapter = (winner / "adapter_config.json").is_file()
        model = f"{bed.base_name}+{winner}" if adapter else str(winner)
        bed.shelf[name] = Learned(model, _POPULATION * _TURNS * _TURN), winner
    found: tuple[Learned, Path] = bed.shelf[name]
    return found


def _schedule(winner: Path) -> list[dict[str, Any]]:
    """What the winner and its ancestors learned with, turn by turn."""
    births: dict[str, Any] = json.loads((winner / "pedigree.json").read_text(encoding="utf-8"))["pedigree"]
    parents = {parent for birth in births.values() for parent in birth["parents"]}
    (last,) = set(births) - parents
    found = []
    while last in births:
        found.append(births[last]["learn"])
        (last,) = births[last]["parents"]
    return found[::-1]


def _replayed(bed: LearningBed, _: float) -> Learned:
    """One model that learns by the winner's schedule, on other draws: its rate and its mix in every turn."""
    winner = _searched(0.2, bed)[1]
    model, steps = bed.half.model, 0
    data = bed.whole(_TASKS)
    for turn in _schedule(winner):
        shares = dict(zip(_TASKS, turn["mix"], strict=True))
        made = bed.learn(
            data, base=model, steps=_TURN, learning_rate=turn["rate"], shares=shares, schedule="constant", warmup=0.0
        )
        model, steps = made.model, steps + _TURN
    return Learned(model, steps)


def _winner(share: float, bed: LearningBed, _: float) -> Learned:
    return _searched(share, bed)[0]


ARMS = (
    Arm("pbt", f"population based training of {_POPULATION} from the half-known model, {_TURNS} turns of {_TURN} "
        f"steps, on {', '.join(_TASKS)}", partial(_winner, 0.2), (0.0,)),
    Arm("random search", "the same without copies", partial(_winner, 0.0), (0.0,)),
    Arm("replayed schedule", "one model by the schedule of the winner of population based training", _replayed, (0.0,)),
)  # fmt: skip

_JADERBERG = "Jaderberg et al. 2017"

CLAIMS = (
    LearningClaim(
        "pbt-random", "Population based training beats random search over its settings", _JADERBERG,
        ("pbt", "random search"), scored("pbt", "random search", _TASKS),
        better(f"population based training minus random search, equal steps in all ({', '.join(_TASKS)})"),
    ),
    LearningClaim(
        "pbt-replayed", "Population based training is more than the schedule it finds", _JADERBERG,
        ("pbt", "replayed schedule"), scored("pbt", "replayed schedule", _TASKS),
        better(f"population based training minus one model trained by its schedule ({', '.join(_TASKS)})"),
        "the replay takes the steps of one member",
    ),
)  # fmt: skip
