"""Runs a study file from wherever it stands: checks, searches, writes the winner; for the command line and scripts.

Wires the study's rooms together and owns the study's folder: its lock, its record, and what may be overwritten.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genepool import locking, progress, staging
from genepool.errors import InputError, nearest
from genepool.evolution.forking import forked
from genepool.evolution.generation import Savings, looks
from genepool.evolution.loop import Search
from genepool.evolution.memory_plan import plan_memory
from genepool.evolution.opened_study import OpenedStudy
from genepool.evolution.permissions import NOTHING, Permissions
from genepool.evolution.records import (
    BEST_FILE,
    COLLECTION_FILE,
    HISTORY_FILE,
    POPULATION_FOLDER,
    STORE_FILE,
    WINNER_FOLDER,
    read_best,
)
from genepool.evolution.store import StudyStore
from genepool.evolution.strategies import Breeder, Strategy, strategy_entry
from genepool.evolution.strategies.base import UNCHANGED
from genepool.evolution.study import SearchBudget, Study
from genepool.evolution.study_file import load_study
from genepool.evolution.winner import write_winner
from genepool.evolution.workers import InProcess, ProcessPool, Workers
from genepool.own_inputs import refuse_own_input
from genepool.schema import validate

STUDY_FILE, REPORT_FILE = "study.yaml", "report.html"
# In the order in which they are removed when a study starts anew.
_FILES = (
    BEST_FILE,
    STORE_FILE,
    f"{STORE_FILE}-wal",
    f"{STORE_FILE}-shm",
    STUDY_FILE,
    HISTORY_FILE,
    REPORT_FILE,
    COLLECTION_FILE,
)


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        out: the study's folder.
        best: what `best.json` says: genome, fingerprint, valid, test, evaluations, seed, recipe, models, cost.
        resumed: whether it was finished before this call, and nothing was done.
    """

    out: Path
    best: dict[str, Any]
    resumed: bool = False

    @property
    def winner(self) -> Path:
        """The folder of the winning checkpoint."""
        return self.out / WINNER_FOLDER

    @property
    def genome(self) -> dict[str, float]:
        """The winner's merge parameters by gene name."""
        return dict(self.best["genome"])


def run_study(
    study: Study | str | Path,
    out: str | Path,
    *,
    evaluations: int | None = None,
    seed: int | None = None,
    workers: int | str = 1,
    ledger: str | Path | None = None,
    overwrite: bool = False,
    fork: str | Path | None = None,
    device: str = "cpu",
    where: str = "",
    trust: Permissions = NOTHING,
) -> StudyResult:
    """Runs a study, or goes on with one that was stopped, killed, or given a larger budget.

    Args:
        study: a study, or its file.
        out: the study's folder; one that holds this study already is gone on with.
        evaluations: replaces the study's budget of evaluations.
        seed: replaces the study's seed.
        workers: processes that evaluate; 1 evaluates in this one. "ray", "ray:N" or "ray://host:port": actors on Ray,
            as many as there are processors, N, or as many as the cluster has. The result depends
            on it only where the study is `steady`.
        ledger: where outcomes are kept; `$GENEPOOL_LEDGER`, else `genepool.sqlite` in the working folder.
        overwrite: start anew, removing what an earlier study left in `out`. Outcomes stay in the ledger.
        fork: folder of an earlier run of this study before it was changed: begin where that one got to.
        device: torch's name of the device that candidates are judged on, in every worker. It is no part of the study:
            one that was stopped may go on elsewhere.
        where: what errors call the study; its file when it is one.
        trust: pickles and code that the study may open; none by default, whatever it names.

    Raises:
        InputError: something the study names is wrong, the study changed, or too many candidates failed.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    from genepool.evolution.evaluator import build_evaluator
    from genepool.tasks.ledger import Ledger, default_path
    from genepool.tasks.plugins import plugins_behind

    where = where or ("study" if isinstance(study, Study) else str(study))
    study = _changed(study if isinstance(study, Study) else load_study(study, trusted=trust.tasks), evaluations, seed)
    count = _worker_count(workers)
    out = Path(out)
    if fork is None and not overwrite and (out / STORE_FILE).is_file():
        # A fork that was stopped goes on as one, whether or not it is said again.
        with StudyStore(out / STORE_FILE) as store:
            fork = store.get("forked_from", None)
    if fork is not None:
        study = forked(study, Path(fork))
    ledger = Path(ledger or default_path()).resolve()
    if not (out / STORE_FILE).is_file():
        staging.check_free(out, overwrite=overwrite, replaced=False)
    if overwrite:
        read = [where, ledger, *_named(study), *([] if fork is None else [fork])]
        for cleared in (*_FILES, WINNER_FOLDER, POPULATION_FOLDER):
            refuse_own_input(out / cleared, read, inside=False)

    with progress.bar("opening models and tasks"):
        entry = strategy_entry(study.strategy.name, where=f"{where}:strategy.name")
        opened = OpenedStudy.open(study, where, out=out, trust=trust, device=device)
        if study.merges_a_part:
            opened.check_labels()
        strategy = strategy_of(opened)
        savings = _savings(opened)
        memory = plan_memory(opened, count or os.cpu_count() or 1)
        memory.check(where, study.compute)
        check_budget(study, first_generation(opened), where)
        # Opened now, so that a ledger that cannot be used is refused before anything is written.
        Ledger(ledger).close()
        settings = {**study.settings(), "inputs": opened.inputs}

    with locking.locked(out):
        with locking.reporting_full_disk(out):
            out.mkdir(parents=True, exist_ok=True)
        if (population := out / POPULATION_FOLDER).is_symlink():
            raise InputError("is a link, and children are written and deleted there", where=population, fix="Remove it")
        if overwrite:
            _clear(out)
        with StudyStore(out / STORE_FILE) as store:
            store.begin(settings, {library: version(library) for library in entry.build.libraries})
            if (found := _finished(out, store, study)) is not None:
                progress.message(
                    f"this study is finished: {found['evaluations']} evaluations, best fitness {found['fitness']:.4f}; "
                    f"a larger budget continues it, --overwrite starts again"
                )
                return StudyResult(out, found, resumed=True)
            _check_whole(out, store)
            if fork is not None:
                store.set("forked_from", str(Path(fork).resolve()))
            store.set("genes", opened.representation.genes())
            with locking.reporting_full_disk(out / BEST_FILE):
                (out / BEST_FILE).unlink(missing_ok=True)
            staging.write_text(out / STUDY_FILE, _yaml(study))
            plugins = plugins_behind(opened.representation.method(), opened.tasks)
            held = (*(["base"] if memory.base else []), *memory.skills)
            asking: dict[str, Any] = {"trust": trust, "device": device}
            factory = partial(build_evaluator, study, where, ledger, plugins, out.resolve(), held, **asking)
            # Only a process can be ended in the middle of an evaluation.
            alone = count == 1 and study.time_limit is None
            who: Workers
            if str(workers).startswith("ray"):
                who = _on_ray(opened, str(workers), store, ledger, plugins, out, held, trust)
            elif alone:
                who = InProcess(factory, store)
            else:
                who = ProcessPool(factory, store.path, count, study.time_limit)
            search = Search(
                store,
                strategy,
                entry.name,
                opened.representation,
                who,
                budget=study.budget,
                seed=study.seed,
                history=out / HISTORY_FILE,
                finalists=study.finalists,
                stop=study.stop,
                savings=savings,
                importance=opened.importance,
                kept=opened.representation.keep_only,
                steady=study.steady,
            )
            finalists = search.run()
            store.set("stop", study.stop.model_dump())
            store.set("ended", search.ended)
            staging.write_text(out / COLLECTION_FILE, _lines(strategy.collection()))
            best = write_winner(opened, store, finalists, out, ledger, notices=search.notices)
            return StudyResult(out, best)


def strategy_of(opened: OpenedStudy) -> Strategy[Any] | Breeder[Any]:
    """The study's strategy, nothing asked or told yet."""
    study = opened.study
    entry, where = strategy_entry(study.strategy.name), f"{opened.where}:strategy"
    tasks = [task.name for task in opened.tasks]
    checked = validate(entry.build.Options, dict(study.strategy.options), f"{where}.options")
    for key in ("objectives", "behaviours"):
        named = getattr(checked, key, None) or ()
        if len(set(named)) < len(named):
            raise InputError("a task is named twice", where=f"{where}.options.{key}", fix="Name each task once")
        for name in named:
            if name not in (*tasks, UNCHANGED):
                known = (*tasks, UNCHANGED)
                raise InputError(f"no task '{name}'", where=f"{where}.options.{key}", fix=nearest(str(name), known))
    return opened.representation.begin()


def first_generation(opened: OpenedStudy) -> int:
    """How many candidates the study begins with. Asks a strategy of its own: a search takes one that nobody asked."""
    return len(strategy_of(opened).ask())


def _savings(opened: OpenedStudy) -> Savings:
    study = opened.study
    if study.race is not None:
        looks(opened.examples, study.race.first, opened.where)
    if study.probe >= opened.examples:
        raise InputError(
            f"must be below {opened.examples}, the examples of each task that score a candidate, got {study.probe}",
            where=f"{opened.where}:probe",
            fix="Make it smaller",
        )
    return Savings(study.race, study.probe, opened.examples, opened.worth, study.tasks.weights, study.screen)


def _changed(study: Study, evaluations: int | None, seed: int | None) -> Study:
    if evaluations is not None:
        if not 1 <= evaluations <= 10**9:
            raise InputError(
                f"the budget must be from 1 to 10^9 evaluations, got {_short(evaluations)}", fix="Give another --budget"
            )
        budget = SearchBudget(evaluations=evaluations, minutes=study.budget.minutes)
        study = study.model_copy(update={"budget": budget})
    if seed is not None:
        if not 0 <= seed < 2**63:
            raise InputError(f"the seed must be from 0 to 2^63 - 1, got {_short(seed)}", fix="Give another seed")
        study = study.model_copy(update={"seed": seed})
    return study


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**20 else f"{len(str(abs(number)))} digits"


def _worker_count(workers: int | str) -> int:
    """How many workers are asked for; 0 for as many as Ray has processors for."""
    text = str(workers)
    if text.startswith("ray"):
        number = text.removeprefix("ray").removeprefix(":")
        if text == "ray" or text.startswith("ray://"):
            return 0
        if not number.isdecimal() or number == "0" or not text.startswith("ray:"):
            raise InputError(
                f"got '{text}', expected a number or an address of Ray",
                where="--workers",
                fix="Write ray, ray:4 or ray://HOST:PORT",
            )
        return int(number)
    if not text.removeprefix("-").isdecimal():
        raise InputError(f"got '{workers}', expected a number of workers", where="--workers", fix="Give 1 or more")
    if int(text) < 1:
        raise InputError(f"must be at least 1, got {text}", where="--workers", fix="Give 1 or more")
    return int(text)


def _on_ray(
    opened: OpenedStudy,
    workers: str,
    store: StudyStore,
    ledger: Path,
    plugins: Collection[Path],
    out: Path,
    held: Sequence[str],
    trust: Permissions,
) -> Workers:
    """A pool on Ray; models that stay in memory go through its object store."""
    from genepool.evolution.ray_workers import RayPool, build_on_ray, connect
    from genepool.weights.shared_memory import share

    study = opened.study
    count = connect(workers, study.threads)
    shared = None
    if len(held) == 1 + len(study.skills):
        with progress.bar("sharing models"):
            resident = OpenedStudy.open(study, opened.where, resident=held, trust=trust).sources
            base = resident[study.reference]
            shared = {study.reference: share(base)}
            shared |= {skill.model: share(resident[skill.model], base) for skill in study.skills}

    factory = partial(
        build_on_ray,
        study=study,
        where=opened.where,
        ledger=ledger,
        plugins=plugins,
        out=out.resolve(),
        resident=held,
        trust=trust,
        device=opened.device,
    )
    return RayPool(
        factory,
        store.path,
        count,
        study.time_limit,
        threads=study.threads,
        ledger=ledger,
        shared=shared,
        births=opened.representation.ancestors,
    )


def check_budget(study: Study, population: int, where: str) -> None:
    """Refuses a budget of less than one generation.

    Args:
        study: the study.
        population: candidates of its first generation.
        where: its file, for errors.

    Raises:
        InputError: there are too few evaluations.
    """
    evaluations = study.budget.evaluations
    if evaluations is not None and evaluations < population:
        raise InputError(
            f"got {evaluations}, expected at least {population}, the candidates of one generation",
            where=f"{where}:budget.evaluations",
            fix=f"Allow {population} or more, here or with --budget, or set strategy.options.population",
        )


def _finished(out: Path, store: StudyStore, study: Study) -> dict[str, Any] | None:
    """What `best.json` says, when it is there and the study asks for no more than was done."""
    budget, stop = study.budget, study.stop
    try:
        best = read_best(out / BEST_FILE)
    except InputError:
        # The record has all that it is made of.
        return None
    if (best.get("ensemble") or {}).get("asked", 0) != study.ensemble:
        return None
    spent = len(store.finished())
    if store.get("ended", "") and store.get("stop", None) == stop.model_dump():
        return best
    more = (budget.evaluations is None or spent < budget.evaluations) and (
        budget.minutes is None or store.get("seconds", 0.0) < 60 * budget.minutes
    )
    return None if more else best


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _yaml(study: Study) -> str:
    import yaml

    data = study.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    return yaml.safe_dump({"study": 1, **data}, sort_keys=False, allow_unicode=True)


def _check_whole(out: Path, store: StudyStore) -> None:
    """Refuses a record with nothing in it beside results that were taken from it: going on would begin anew."""
    if not store.finished() and (out / HISTORY_FILE).is_file() and (out / HISTORY_FILE).stat().st_size:
        raise InputError(
            f"is empty, and {HISTORY_FILE} beside it has candidates",
            where=store.path,
            fix="Restore the record from a copy, or pass --overwrite to start again",
        )


def _named(study: Study) -> list[str]:
    """What a study reads: its models and its tasks."""
    return [*study.named_models.values(), study.tasks.dir]


def _clear(out: Path) -> None:
    # The end marker goes first: a half-cleared folder must not look finished.
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    for folder in (WINNER_FOLDER, POPULATION_FOLDER):
        shutil.rmtree(out / folder, ignore_errors=True)
