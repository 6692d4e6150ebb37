"""The durable record of a study: one SQLite file that a killed run goes on from.

Candidates are on disk before they are dispatched, a result is on disk before its worker reports it, and a generation
is marked told in one transaction with the fitness the strategy was given. Uses sqlite3 and numpy; the loop writes
candidates and generations, workers write results, the winner's room and reports read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.checked import differences, is_number, is_whole
from genepool.errors import InputError
from genepool.evolution.candidates import (
    CANDIDATE_COLUMNS,
    VERDICT_COLUMNS,
    Candidate,
    Verdict,
    candidate_of,
    verdict_of,
)
from genepool.record import Record

if TYPE_CHECKING:
    import numpy as np

FORMAT = 3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS candidates (
    id TEXT PRIMARY KEY, generation INTEGER NOT NULL, idx INTEGER NOT NULL,
    asked BLOB NOT NULL, genome TEXT NOT NULL, seed INTEGER NOT NULL, after INTEGER NOT NULL,
    UNIQUE (generation, idx));
CREATE TABLE IF NOT EXISTS results (
    id TEXT NOT NULL, stage INTEGER NOT NULL, fitness REAL, valid TEXT NOT NULL, scores BLOB NOT NULL,
    error TEXT NOT NULL, seconds REAL NOT NULL, cpu_seconds REAL NOT NULL, examples INTEGER NOT NULL,
    cached INTEGER NOT NULL, fingerprint TEXT NOT NULL, behaviour TEXT NOT NULL, note TEXT NOT NULL,
    unchanged REAL,
    PRIMARY KEY (id, stage));
CREATE TABLE IF NOT EXISTS told (
    turn INTEGER PRIMARY KEY, generation INTEGER NOT NULL UNIQUE, fitness BLOB NOT NULL, diversity REAL);
"""
TABLES = frozenset({"meta", "candidates", "results", "told"})


class StudyStore(Record):
    """The open study file; safe for one driver and any number of workers.

    Args:
        path: the SQLite file; created with its folder when missing.

    Raises:
        InputError: the file is something else, damaged, or from a newer version.
    """

    noun, version, schema, tables = "study", FORMAT, _SCHEMA, TABLES
    kept = ", and finished evaluations stay in the ledger"

    # -- what the run is ----------------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, Any], libraries: Mapping[str, str]) -> None:
        """Records what this study is, or checks that it still is what was recorded.

        Args:
            settings: everything that decides candidates and their worth, as plain data.
            libraries: versions of what the strategy computes with.

        Raises:
            InputError: the study or its inputs changed since the run began; the keys that differ are named.
        """
        text = json.dumps(settings, sort_keys=True, allow_nan=False)
        settings = json.loads(text)
        known = self.get("settings", None)
        if known is None:
            with self._transaction():
                self._set("format", FORMAT)
                self._set("settings", settings)
                self._set("libraries", dict(libraries))
        elif known != settings:
            raise InputError(
                "the study changed since this run began: " + "; ".join(differences(known, settings)),
                where=self.path,
                fix="Undo the change to resume, start another --out with --fork and this folder, or pass --overwrite",
            )

    @property
    def run_id(self) -> str:
        """SHA-256, hex, of the settings: the same study has the same candidates' ids wherever it runs."""
        return hashlib.sha256(json.dumps(self.get("settings", None), sort_keys=True).encode()).hexdigest()

    # -- asked --------------------------------------------------------------------------------------------------

    def asked(
        self,
        strategy: str,
        generation: int,
        identities: Sequence[bytes],
        genomes: Sequence[Mapping[str, Any]],
        seed: int,
        after: int | None = None,
    ) -> list[Candidate]:
        """Makes a generation durable before anything of it runs; one that is on record is checked instead.

        Args:
            strategy: name of the strategy, part of the ids.
            generation: counted from 0.
            identities: what makes each of the first n candidates of the generation what it is, to the last bit.
            genomes: their genomes.
            seed: the seed every candidate is merged with.
            after: how many generations the strategy had been told when it was asked; all before this one when None.

        Raises:
            InputError: the strategy proposes other candidates than those on record. A library it computes with
                has changed, or this is another kind of machine.
        """
        rows = self._rows("SELECT idx, asked, id FROM candidates WHERE generation = ? ORDER BY idx", (generation,))
        on_record = {index: (data, identity) for index, data, identity in rows}
        run = self.run_id
        candidates: list[Candidate] = []
        new: list[tuple[Any, ...]] = []
        for index, (data, genome) in enumerate(zip(identities, genomes, strict=True)):
            candidate = Candidate(_id(run, strategy, generation, index), generation, index, dict(genome), seed)
            candidates.append(candidate)
            if index not in on_record:
                text = json.dumps(candidate.genome, allow_nan=False)
                told = generation if after is None else after
                new.append((candidate.id, generation, index, data, text, seed, told))
            elif on_record[index] != (data, candidate.id):
                raise self._replay_differs(strategy, generation, index)
        if new:
            with self._transaction():
                self._db.executemany("INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?)", new)
        return candidates

    def _replay_differs(self, strategy: str, generation: int, index: int) -> InputError:
        from importlib.metadata import PackageNotFoundError, version

        changed = []
        for library, then in sorted(self.get("libraries", {}).items()):
            try:
                now = version(library)
            except PackageNotFoundError:
                now = "missing"
            if now != then:
                changed.append(f"{library} was {then} and is {now}")
        reason = ", ".join(changed) or "the versions are the same, so this is another kind of processor or build"
        return InputError(
            f"'{strategy}' no longer proposes candidate {index} of generation {generation} as it did when this run "
            f"began ({reason})",
            where=self.path,
            fix="Resume where the run began, or pass --overwrite to start again; outcomes stay in the ledger",
        )

    def guess(self, strategy: str, generation: int, genome: Mapping[str, Any], seed: int) -> Candidate:
        """The candidate that stands for a strategy's own guess after so many generations; index -1."""
        return Candidate(_id(self.run_id, strategy, generation, -1), generation, -1, dict(genome), seed)

    # -- finished -----------------------------------------------------------------------------------------------

    def finish(self, candidate: Candidate, verdict: Verdict) -> None:
        """Makes a result durable. The first one stands: a second for the same candidate changes nothing."""
        fitness = verdict.fitness
        if fitness is not None and not math.isfinite(fitness):
            raise ValueError(f"fitness must be finite or None, not {fitness}")
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    candidate.id,
                    candidate.stage,
                    fitness,
                    json.dumps(dict(verdict.valid), allow_nan=False),
                    verdict.scores,
                    verdict.error,
                    verdict.seconds,
                    verdict.cpu_seconds,
                    verdict.examples,
                    int(verdict.cached),
                    verdict.fingerprint,
                    verdict.behaviour,
                    verdict.note,
                    verdict.unchanged,
                ),
            )

    def finished(self, generation: int | None = None) -> list[tuple[Candidate, Verdict]]:
        """Every candidate with a result, in the order of generation and index; of one generation when named."""
        only, arguments = ("", ()) if generation is None else ("AND generation = ?", (generation,))
        rows = self._rows(
            f"SELECT {VERDICT_COLUMNS}, {CANDIDATE_COLUMNS} FROM candidates c JOIN results r ON c.id = r.id "
            f"WHERE stage = 0 {only} ORDER BY generation, idx",
            arguments,
        )
        found = []
        for row in rows:
            with self._believing("a candidate"):
                candidate = candidate_of(row[-5:])
            with self._believing(f"the result of candidate {candidate.name}"):
                found.append((candidate, verdict_of(row[:-5])))
        return found

    def result(self, candidate: Candidate) -> Verdict | None:
        """What a candidate was worth at its stage (in the search, in one look, as a finalist); None when not known."""
        rows = self._rows(
            f"SELECT {VERDICT_COLUMNS} FROM results WHERE id = ? AND stage = ?", (candidate.id, candidate.stage)
        )
        with self._believing(f"the result of candidate {candidate.name}"):
            return verdict_of(rows[0]) if rows else None

    def candidate(self, name: str) -> Candidate | None:
        """The candidate called "generation.index"; None when none was asked for by that name."""
        generation, _, index = name.partition(".")
        if not (generation.isdecimal() and index.isdecimal()):
            return None
        rows = self._rows(
            f"SELECT {CANDIDATE_COLUMNS} FROM candidates c WHERE generation = ? AND idx = ?",
            (int(generation), int(index)),
        )
        with self._believing(f"candidate {name}"):
            return candidate_of(rows[0]) if rows else None

    def cost(self) -> dict[str, float]:
        """What all evaluations took: summed wall and processor seconds, and examples computed."""
        totals = self._rows(
            "SELECT total(max(seconds, 0)), total(max(cpu_seconds, 0)), total(max(examples, 0)) FROM results"
        )[0]
        return {"seconds": round(totals[0], 3), "cpu_seconds": round(totals[1], 3), "examples": int(totals[2])}

    def examples_of_the_search(self) -> int:
        """Examples computed for the search, the judging of finalists left out."""
        return int(self._rows("SELECT total(examples) FROM results WHERE stage >= 0")[0][0])

    # -- told ---------------------------------------------------------------------------------------------------

    def told(self, generation: int, fitness: np.ndarray, seconds: float, diversity: float | None = None) -> None:
        """Marks a generation as told, in one transaction.

        On record are its fitness, shape (population,), the time spent and how much its candidates differ.
        The strategy's state needs no place of its own: it is a function of the generations told so far.

        Raises:
            InputError: the generation was told another fitness before; the file has been edited or damaged.
        """
        data = fitness.astype("<f8").tobytes()
        known = self._rows("SELECT fitness FROM told WHERE generation = ?", (generation,))
        if known:
            if known[0][0] != data:
                raise InputError(
                    f"the results of generation {generation} differ from those that the strategy was told",
                    where=self.path,
                    fix="Another program changed the file: pass --overwrite to start again",
                )
            return
        with self._transaction():
            self._db.execute(
                "INSERT INTO told (generation, fitness, diversity) VALUES (?, ?, ?)", (generation, data, diversity)
            )
            self._set("seconds", seconds)

    def asked_after(self) -> list[int]:
        """For every generation on record, how many had been told when it was asked for."""
        return self._wholes("SELECT min(after) FROM candidates GROUP BY generation ORDER BY generation")

    def told_order(self) -> list[int]:
        """The generations that were told, in that order."""
        return self._wholes("SELECT generation FROM told ORDER BY turn")

    def diversity(self) -> list[float | None]:
        """How much the candidates differed, by generation that was told."""
        found = [row[0] for row in self._rows("SELECT diversity FROM told ORDER BY turn")]
        with self._believing("the diversity of a generation"):
            if wrong := [value for value in found if value is not None and not is_number(value)]:
                raise ValueError(f"{wrong[0]!r:.80}")
        return found

    # -- plumbing -----------------------------------------------------------------------------------------------

    def _wholes(self, query: str) -> list[int]:
        """The numbers of generations that a query finds."""
        found = [row[0] for row in self._rows(query)]
        with self._believing("the number of a generation"):
            if wrong := [value for value in found if not is_whole(value, 0)]:
                raise ValueError(f"{wrong[0]!r:.80}")
        return found


def _id(*parts: str | int) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
