"""The search for a task's learning rate: whole trainings of the task, judged by its validation examples alone.

Nothing of other tasks and no test example is looked at, as NEVIS'22 (Bornschein et al., arXiv:2211.11747) has it: what
a search costs is part of what learning a task costs. A trial that ended is on the disk, and is not taken again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genepool import staging
from genepool.checked import is_number, is_whole, parsed_json
from genepool.errors import InputError
from genepool.training.folder import JOURNAL_FILE
from genepool.training.journal import Journal
from genepool.training.states import FOLDER

if TYPE_CHECKING:
    from genepool.training.continual.session import TaskRun

TRIALS, MARK = "trials", "trial.json"


@dataclass(frozen=True)
class Trial:
    """A training of a task with one learning rate.

    Attributes:
        rate: the learning rate.
        score: the share of validation examples that are answered right after the last step.
        loss: their mean loss then.
        compute: operations that it took.
    """

    rate: float
    score: float
    loss: float
    compute: int


def search_rate(
    folder: Path, factors: Sequence[float], make: Callable[[Path, Journal, float | None], TaskRun]
) -> list[Trial]:
    """Trains a task with several learning rates.

    Args:
        folder: the task's; trials stand in `trials` in it.
        factors: what the learning rate is multiplied with in each trial; the first is 1.
        make: the training of the task in a folder with a learning rate; None: the one that it has without a search.

    Returns:
        The trials, in order.
    """
    found: list[Trial] = []
    for number, factor in enumerate(factors):
        place = folder / TRIALS / f"{number + 1:04d}"
        if (known := _read(place)) is None:
            place.mkdir(parents=True, exist_ok=True)
            with Journal(place / JOURNAL_FILE) as journal:
                run = make(place, journal, found[0].rate * factor if found else None)
                run.begin()
                run.train()
                known = run.tried()
            staging.write_text(place / MARK, json.dumps({"schema": 1, **asdict(known)}, allow_nan=False) + "\n")
            shutil.rmtree(place / FOLDER, ignore_errors=True)
        found.append(known)
    return found


def best_trial(trials: Sequence[Trial]) -> int:
    """The number of the trial with the highest score; of equals that with the lowest loss, and the first of these."""
    return min(range(len(trials)), key=lambda at: (-trials[at].score, trials[at].loss, at))


def _read(place: Path) -> Trial | None:
    """A trial that ended; None where it did not.

    Raises:
        InputError: it is damaged.
    """
    path = place / MARK
    if not path.is_file():
        return None
    try:
        told = parsed_json(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or told.get("schema") != 1:
            raise ValueError
        found = Trial(*(told[name] for name in ("rate", "score", "loss", "compute")))
        if not (is_number(found.rate) and is_number(found.score, 0, 1) and is_number(found.loss)):
            raise ValueError
        if not is_whole(found.compute, 0) or found.rate <= 0:
            raise ValueError
    except (OSError, ValueError, KeyError):
        raise InputError("is damaged", where=path, fix=f"Remove {place}: the trial is taken again") from None
    return found
