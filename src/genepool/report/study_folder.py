"""A study folder as it lies on the disk, finished or not: its study file, history and record, checked on the way in.

Reads files only and opens no model. Uses evolution's study file and store; the sections are collected from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.checked import is_digest, is_number
from genepool.errors import InputError
from genepool.evolution.records import BEST_FILE, HISTORY_FILE, read_best, read_history
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import strategy_entry
from genepool.evolution.study import Study
from genepool.evolution.study_file import load_study
from genepool.measure import Interval

STUDY_FILE, STORE_FILE = "study.yaml", "study.sqlite"


@dataclass(frozen=True)
class StudyFolder:
    """What one study folder says.

    Attributes:
        path: the folder.
        study: its study file.
        history: its finished candidates, in order of generation and index; dictionaries as `history.jsonl` has them,
            with `parents`, the ids of the candidates one came from, empty where the strategy records none.
        best: what `best.json` says; None while the study is unfinished.
        wall_seconds: wall time of the search over all its sittings; None when the study file does not say.
        inputs: fingerprints of the base ("base") and of every skill by name, as far as they are recorded.
    """

    path: Path
    study: Study
    history: tuple[dict[str, Any], ...]
    best: dict[str, Any] | None
    wall_seconds: float | None
    inputs: Mapping[str, str]

    @property
    def strategy(self) -> str:
        """What people call the strategy."""
        return strategy_entry(self.study.strategy.name).title

    @property
    def leader(self) -> dict[str, Any] | None:
        """The best candidate so far, the first of equals; None when none has a fitness."""
        good = [line for line in self.history if line["fitness"] is not None]
        return max(good, key=lambda line: float(line["fitness"]), default=None)

    def tested(self, name: str) -> dict[str, Interval]:
        """The test scores `best.json` records of one of its models ("base", a skill, "winner"), by task."""
        return {task: Interval(one["mean"], one["lo"], one["hi"]) for task, one in self._test_rows(name).items()}

    def examples(self, name: str) -> dict[str, int]:
        """How many test examples stand behind each of the scores of `tested`, by task."""
        return {task: one["n"] for task, one in self._test_rows(name).items()}

    def _test_rows(self, name: str) -> Mapping[str, Any]:
        rows = {row["name"]: row["test"] for row in (self.best or {}).get("models", ())}
        found: Mapping[str, Any] = rows.get(name, {})
        return found

    @property
    def finalists(self) -> list[tuple[str, dict[str, Any]]]:
        """The candidates that were judged again, the winner first: what each is called, and what is recorded of it.

        `fingerprint` is that of the candidate as the search saw it; empty for a strategy's own guess.
        """
        prints = {line["id"]: line.get("fingerprint", "") for line in self.history}
        return [
            (
                f"candidate {line['index'] + 1} of generation {line['generation']}"
                if line["index"] >= 0
                else f"the strategy's own guess after {line['generation']} generations",
                {"fingerprint": prints.get(line["id"], ""), **line},
            )
            for line in (self.best or {}).get("finalists", ())
        ]


def open_study_folder(path: str | Path) -> StudyFolder:
    """Reads a study folder.

    Raises:
        InputError: there is no such folder, it holds no study, or one of its files is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError("no such folder", where=path, fix="Name the folder that `genepool evolve --out` wrote")
    if not (path / STUDY_FILE).is_file():
        raise InputError(
            f"is not a study folder: it holds no {STUDY_FILE}",
            where=path,
            fix="Name the folder that `genepool evolve --out` wrote",
        )
    study = load_study(path / STUDY_FILE)
    history = tuple(read_history(path / HISTORY_FILE))
    best = read_best(path / BEST_FILE) if (path / BEST_FILE).is_file() else None
    seconds, inputs = _stored(path / STORE_FILE)
    tested = {row["name"]: row["fingerprint"] for row in (best or {}).get("models", ())}
    return StudyFolder(path, study, history, best, seconds, {**tested, **inputs})


def _stored(path: Path) -> tuple[float | None, dict[str, str]]:
    """Wall seconds and fingerprints of the inputs, as far as the study's store can be read."""
    if not path.is_file():
        return None, {}
    try:
        with StudyStore(path) as store:
            seconds, settings = store.get("seconds", None), store.get("settings", {})
    except InputError:
        # A copy on a read-only medium, or from another version: the page says less, and says the rest.
        return None, {}
    inputs = settings.get("inputs") if isinstance(settings, dict) else None
    models = inputs.get("models") if isinstance(inputs, dict) else None
    told = {"base": inputs.get("base"), **models} if isinstance(inputs, dict) and isinstance(models, dict) else {}
    known = {name: one for name, one in told.items() if is_digest(one)}
    return (float(seconds) if is_number(seconds, 0) else None), known
