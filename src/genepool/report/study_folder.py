"""A study folder as it lies on the disk, finished or not: its study file, history and record, checked on the way in.

Reads files only and opens no model. Uses evolve's study file and store; `collect` builds a page from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.checked import is_digest, is_number
from genepool.errors import InputError
from genepool.evolution.records import BEST_FILE, HISTORY_FILE, read_best, read_history
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import strategy_entry
from genepool.evolution.study import Study, load_study
from genepool.report.data import Cost, Estimate, Evaluation, GeneValue

STUDY_FILE, STORE_FILE = "study.yaml", "study.sqlite"
#: Of the candidates, the share (and the least number) whose genes show how far the search was decided.
BETTER_SHARE, BETTER_LEAST = 0.1, 5

_GENE = re.compile(r"(?P<head>.+?)(?:\[(?:layers (?P<first>\d+)-(?P<last>\d+))?(?:, )?(?P<role>\w+)?\])?")


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

    def tested(self, name: str) -> dict[str, Estimate]:
        """The test scores `best.json` records of one of its models ("base", a skill, "winner"), by task."""
        rows = {row["name"]: row["test"] for row in (self.best or {}).get("models", ())}
        return {
            task: Estimate(score["mean"], score["lo"], score["hi"], score["n"])
            for task, score in rows.get(name, {}).items()
        }

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

    def evaluations(self) -> tuple[Evaluation, ...]:
        """The candidates for the search curve."""
        return tuple(Evaluation(line["fitness"], line["generation"]) for line in self.history)

    def cost(self, name: str) -> Cost:
        """What the search took."""
        spent = (self.best or {}).get("cost", {})
        seconds = self.wall_seconds
        return Cost(
            name,
            evaluations=len(self.history),
            failed=sum(line["fitness"] is None for line in self.history),
            cached=sum(bool(line["cached"]) for line in self.history),
            examples=spent.get("examples"),
            seconds=sum(line["seconds"] for line in self.history) if seconds is None else seconds,
            cpu_seconds=spent.get("cpu_seconds"),
        )

    def genes(self) -> tuple[tuple[GeneValue, ...], str]:
        """The genes of the winner (of the best so far while unfinished), and what their spread was taken over."""
        leader = self.best or self.leader
        if leader is None or not self.study.vary.searched:
            return (), ""
        better = self._better()
        spreads = {
            name: (min(line["genome"][name] for line in better), max(line["genome"][name] for line in better))
            for name in leader["genome"]
            if better and all(is_number(line["genome"].get(name)) for line in better)
        }
        genes = [
            self._gene(name, float(value), spreads.get(name))
            for name, value in leader["genome"].items()
            if is_number(value)
        ]
        described = f"the best {len(better)} of {len(self.history)} candidates" if spreads else ""
        return tuple(gene for gene in genes if gene is not None), described

    def _better(self) -> list[dict[str, Any]]:
        good = sorted(
            (line for line in self.history if line["fitness"] is not None), key=lambda line: -float(line["fitness"])
        )
        count = max(BETTER_LEAST, round(BETTER_SHARE * len(good)))
        return good[:count] if len(good) >= 2 * BETTER_LEAST else []

    def _gene(self, name: str, value: float, spread: tuple[float, float] | None) -> GeneValue | None:
        match = _GENE.fullmatch(name)
        if match is None:
            return None
        for parameter, wanted in self.study.vary.searched.items():
            skill, dot, end = match["head"].rpartition(parameter)
            if end == "" and dot and (skill == "" or skill.endswith(".")):
                layers = (int(match["first"]), int(match["last"])) if match["first"] else None
                owner = skill[:-1] or None
                return GeneValue(parameter, owner, layers, match["role"], value, wanted.low, wanted.high, spread)
        return None


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
            f"not a study folder: it holds no {STUDY_FILE}",
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
