"""Learns tasks one after another: each is durable when it ends, so that a killed run goes on to the same bits.

What a task trained and what the learner keeps are published before the mark that says it is learned; a task without its
mark goes on from its own last state. After every task the model is asked the test split of every task, in the ledger's
way, and the outcomes are on record. Uses the learners and the runs; `genepool train --learner` drives it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genepool import locking, progress, staging
from genepool.errors import InputError
from genepool.measure import check_gated_tasks, load_gates
from genepool.own_inputs import refuse_own_input
from genepool.seeding import derive
from genepool.tasks import OutcomeTable, Source, open_model
from genepool.threads import torch_threads
from genepool.training.continual.asking import ask_all, fingerprint_of, joined_gains, models_asked
from genepool.training.continual.folder import (
    COMPOSED,
    MERGED,
    LearnedTask,
    read_learned,
    read_order,
    remove_after,
    task_folder,
)
from genepool.training.continual.memory import Memory, bytes_of, memory_digest, read_memory
from genepool.training.continual.opening import open_sequence
from genepool.training.continual.record import SequenceRecord
from genepool.training.continual.result import write_merged, write_result
from genepool.training.continual.retrieved import PoolOnBase, WritePool, check_writer
from genepool.training.continual.search import best_trial, search_rate
from genepool.training.continual.session import TaskRun
from genepool.training.continual.stages import earlier_models
from genepool.training.continual.told import measured_sequence, shared_examples
from genepool.training.examples import TrainingExample, TrainingExamples
from genepool.training.folder import JOURNAL_FILE, RECIPE_FILE, REPORT_FILE, RESULT_FILE, check_same, clear, recipe_text
from genepool.training.gains import Gains
from genepool.training.journal import Journal
from genepool.training.opened_training import OpenedTraining
from genepool.training.recipe import Training
from genepool.training.run import known_threads, sensible_threads
from genepool.training.train import TrainingResult
from genepool.weights import Weights, open_weights


def run_sequence(
    recipe: Training,
    out: Path,
    *,
    ledger: str | Path | None = None,
    device: str = "cpu",
    fork: str | Path | None = None,
    trusted: Collection[str | Path] = (),
    allow_pickle: bool = False,
    overwrite: bool = False,
    gate: str | Path | None = None,
    draw: Callable[[TrainingResult], object] | None = None,
    write_pool: WritePool | None = None,
) -> TrainingResult:
    """Learns the tasks of a recipe in their order, or goes on with a run that was stopped.

    Args:
        recipe: the training; it names a learner.
        out: its folder; one that holds this run already is gone on with.
        ledger, device, trusted, allow_pickle, overwrite, gate, draw, write_pool: as for
            `genepool.training.run_training`.
        fork: refused: what a learner keeps belongs to the tasks that it learned.

    Raises:
        InputError: something the recipe names is wrong, it changed since it began, or the loss is no number.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    if fork is not None:
        raise InputError(
            "does not go with a learner",
            where="--fork",
            fix="Name what was learned as part of the base: BASE+DIR/adapter",
        )
    check_writer(recipe, write_pool)
    with progress.bar("opening the base and the tasks"):
        opened = open_sequence(recipe, trusted=trusted, allow_pickle=allow_pickle)
    if gate is not None:
        names = [task.name for task in (*opened.lessons.tasks, *opened.others)]
        check_gated_tasks(load_gates(gate), names, gate)
    if overwrite or not (out / JOURNAL_FILE).is_file():
        staging.check_free(out, overwrite=overwrite)
    named = [opened.base.folder, *recipe.tasks, recipe.others, *recipe.base.split("+")]
    refuse_own_input(out, (one for one in named if one is not None))
    with locking.locked(out), locking.reporting_full_disk(out):
        if overwrite and out.is_dir():
            clear(out)
        out.mkdir(parents=True, exist_ok=True)
        with SequenceRecord(out / JOURNAL_FILE) as record:
            run = SequenceRun(opened, out, record, device=device, write_pool=write_pool)
            run.begin()
            known = read_order(out)
            if known is not None and known["asked"] == opened.asked():
                progress.message("every task is learned; for more tasks, name another --out")
                if draw is None or (out / REPORT_FILE).is_file():
                    return TrainingResult(out, known, resumed=True)
            run.learn(ledger)
            told, gains = run.finish(ledger)
            result = TrainingResult(out, told, resumed=known is not None, gains=gains)
            if draw is not None:
                draw(result)
    return result


def sequence_gains(opened: OpenedTraining, out: Path, ledger: str | Path | None, device: str = "cpu") -> Gains:
    """Before and after of a finished run, out of the ledger; what that lost is asked again.

    Args:
        opened: the recipe, opened.
        out: its folder.
        ledger: where outcomes are kept.
        device: torch's name of the device.
    """
    with SequenceRecord(out / JOURNAL_FILE) as record:
        run = SequenceRun(opened, out, record, device=device)
        run.check()
        return run.gains(ledger)


def verify_sequence(opened: OpenedTraining, out: Path, step: int, device: str = "cpu") -> None:
    """Takes a step again and compares every bit; steps are counted through all tasks, from 1.

    Raises:
        InputError: there is no such step on record.
        CheckFailed: it has other bits than it had.
    """
    with SequenceRecord(out / JOURNAL_FILE) as record:
        run = SequenceRun(opened, out, record, device=device)
        run.check()
        run.replay(step)


class SequenceRun:
    """Tasks learned one after another in one folder.

    Args:
        opened: the recipe, opened.
        out: its folder, locked by the caller.
        record: its record, open.
        device: torch's name of the device.
        write_pool: writes what prompts retrieve from, for learners whose result it is.
    """

    def __init__(
        self,
        opened: OpenedTraining,
        out: Path,
        record: SequenceRecord,
        *,
        device: str = "cpu",
        write_pool: WritePool | None = None,
    ) -> None:
        self.opened, self.recipe, self.out, self.record = opened, opened.recipe, out, record
        self._device, self._write_pool = device, write_pool
        known = record.get("settings", None) or {}
        self.threads = self.recipe.threads or known_threads(known) or sensible_threads(opened.base)
        self.groups = self.recipe.made_learner().groups(len(opened.lessons.tasks))

    # ------------------------------------------------------------------ beginning

    def begin(self) -> None:
        """Records what this run is, or checks that it still is what was recorded.

        Raises:
            InputError: it changed; what differs is named.
        """
        settings = self._settings()
        known = self.record.begin(json.loads(json.dumps(settings)))
        if known is not None:
            check_same(known, settings, self.recipe, self.out / JOURNAL_FILE)
        staging.write_text(self.out / RECIPE_FILE, recipe_text(self.recipe))

    def check(self) -> None:
        """Checks that base, lessons and settings are those on record; writes nothing."""
        known = self.record.get("settings", None) or {}
        check_same(known, self._settings(), self.recipe, self.out / JOURNAL_FILE)

    def _settings(self) -> dict[str, Any]:
        return {**self.opened.settings(self.threads), "device": self._device}

    # ------------------------------------------------------------------ learning

    def learn(self, ledger: str | Path | None) -> list[LearnedTask]:
        """Learns the tasks that are missing, and asks every model that was not asked.

        Raises:
            InputError: the loss is no number any more, or what a task left was changed.
        """
        done: list[LearnedTask] = []
        self._ask(0, done, ledger)
        self._tell()
        with progress.bar("learning tasks in order", len(self.groups), "tasks") as bar, torch_threads(self.threads):
            for number, group in enumerate(self.groups):
                bar.note(", ".join(self._names(group)))
                learned = self._learned(number) or self._learn(number, done)
                done.append(learned)
                self._ask(number + 1, done, ledger)
                bar.advance()
        return done

    def _learned(self, number: int) -> LearnedTask | None:
        return read_learned(task_folder(self.out, number), self._names(self.groups[number]))

    def _tell(self) -> None:
        """Says before anything is learned which tasks share examples, and of which nothing can be gained."""
        for one in shared_examples(self.opened.lessons.tasks):
            first, second = one["tasks"]
            progress.message(
                f"{first} and {second} share {one['examples']:,} examples, so learning one also rehearses the other"
            )
        for task in self.opened.targets:
            scores = self.record.scores(0, task.name)
            if len(scores) and scores.min() == 1:
                progress.message(f"{task.name}: the base answers every test example right, so nothing can be gained")

    def _learn(self, number: int, done: Sequence[LearnedTask]) -> LearnedTask:
        folder = task_folder(self.out, number)
        self.record.forget_from(number + 1)
        remove_after(self.out, number)
        folder.mkdir(parents=True, exist_ok=True)
        learner = self.recipe.made_learner()
        trials = search_rate(
            folder,
            learner.trials(self.recipe.seed, number),
            lambda place, journal, rate: self._task_run(number, done, journal, folder=place, rate=rate, judged=True),
        )
        rate = trials[best_trial(trials)].rate if trials else None
        with Journal(folder / JOURNAL_FILE) as journal:
            run = self._task_run(number, done, journal, rate=rate)
            run.begin()
            run.train()
            told = run.finish_task()
        if trials:
            # The one that was chosen is taken again, to the same bits: it counts once.
            told["compute"] = sum(one.compute for one in trials)
            told["facts"]["trials"] = [[one.rate, one.score] for one in trials]
        results = [one.trained for one in done] + [folder / told["result"]]
        merged = learner.combined(self.recipe.base, results)
        so_far = self._so_far(number)
        if merged is not None:
            write_merged(self.opened, self.out, merged, results, so_far, folder / MERGED)
        pool = learner.pool(read_memory(folder))
        if pool is not None:
            assert self._write_pool is not None
            steps = dict(zip(so_far, [*(one.steps for one in done), told["steps"]], strict=True))
            self._write_pool(PoolOnBase.after(self.opened, pool, steps), folder / COMPOSED)
        kept = sum(bytes_of(one) for one in results) if learner.keeps_results else 0
        learned = LearnedTask(
            folder,
            self._names(self.groups[number]),
            told["result"],
            merged is not None,
            told["steps"],
            told["cost"]["examples"],
            told["learning_rate"],
            told["memory_bytes"] + kept,
            told["facts"],
            told["views"],
            told["compute"],
            pool is not None,
            memory_digest(folder),
        )
        learned.write()
        return learned

    def _task_run(
        self,
        number: int,
        done: Sequence[LearnedTask],
        journal: Journal,
        *,
        folder: Path | None = None,
        rate: float | None = None,
        judged: bool = False,
    ) -> TaskRun:
        """The training of one task, begun with what the tasks before it left.

        Args:
            number: of the task.
            done: the tasks before it.
            journal: its record.
            folder: its own one, of a trial; the task's when None.
            rate: its learning rate; the recipe's when None.
            judged: whether validation examples say how good it is, of a trial.
        """
        recipe, learner, group = self.recipe, self.recipe.made_learner(), self.groups[number]
        base, name = self.opened.base, recipe.base
        fresh = learner.fresh_factors and recipe.form == "lora"
        if done and fresh:
            base, name = self.weights(done), self._model(done)
        names = self._names(group)
        own = recipe.model_copy(
            update={
                "base": name,
                "tasks": tuple(recipe.tasks[one] for one in group),
                "others": None,
                "portions": None,
                "steps": recipe.steps * len(group),
                "patience": 0,
                "seed": derive(recipe.seed, "task", number),
                "threads": self.threads,
                **({} if rate is None else {"learning_rate": rate}),
            }
        )
        whole = self.opened.lessons
        lessons = TrainingExamples([whole.tasks[one] for one in group], seed=own.seed, valid=1)
        # Portions are of the whole run; and without validation examples the last state is the one that counts.
        lessons.train, lessons.valid = [one for one in whole.train if one.task.name in names], []
        if judged:
            lessons.valid = [one for one in whole.valid if one.task.name in names]
        before = {name for one in done for name in one.tasks}
        earlier: dict[tuple[str, str], TrainingExample] = {
            (one.task.name, one.example.key): one for one in whole.train if one.task.name in before
        }
        return TaskRun(
            replace(self.opened, recipe=own, base=base, lessons=lessons, others=()),
            task_folder(self.out, number) if folder is None else folder,
            journal,
            learner,
            number,
            read_memory(done[-1].folder, done[-1].memory) if done else Memory(),
            earlier,
            so_far=self._so_far(number),
            stages=[] if fresh or not done else earlier_models(self.opened, done, self._device),
            device=self._device,
        )

    def replay(self, step: int) -> None:
        """See `verify_sequence`."""
        done: list[LearnedTask] = []
        for number in range(len(self.groups)):
            if (learned := self._learned(number)) is None:
                break
            if step <= sum(one.steps for one in done) + learned.steps:
                with Journal(learned.folder / JOURNAL_FILE) as journal, torch_threads(self.threads):
                    searched = self.recipe.made_learner().trials(self.recipe.seed, number)
                    rate = learned.learning_rate if searched else None
                    run = self._task_run(number, done, journal, rate=rate)
                    run.check()
                    run.replay(step - sum(one.steps for one in done))
                return
            done.append(learned)
        raise InputError(
            f"step {step} is not on record",
            where=self.out / JOURNAL_FILE,
            fix=f"Name a step from 1 to {sum(one.steps for one in done)}",
        )

    # ------------------------------------------------------------------ models

    def parts(self, done: Sequence[LearnedTask]) -> list[Path]:
        """What goes onto the base to be the model that stands after some tasks."""
        last = done[-1]
        if last.merged or last.composed:
            return [last.folder / (MERGED if last.merged else COMPOSED)]
        if self.recipe.made_learner().fresh_factors and self.recipe.form == "lora":
            return [one.trained for one in done]
        return [last.trained]

    def _model(self, done: Sequence[LearnedTask]) -> str:
        return "+".join([self.recipe.base, *map(str, self.parts(done))])

    def weights(self, done: Sequence[LearnedTask]) -> Weights:
        """The model that stands after some tasks."""
        return open_weights(self._model(done), base=self.opened.base, allow_pickle=self.opened.allow_pickle)

    def _names(self, group: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.opened.lessons.tasks[one].name for one in group)

    def _so_far(self, number: int) -> tuple[str, ...]:
        return tuple(name for group in self.groups[: number + 1] for name in self._names(group))

    def _ask(self, stage: int, done: Sequence[LearnedTask], ledger: str | Path | None) -> None:
        asked = self.opened.asked()
        if self.record.asked(stage) == asked:
            return
        tables = self._tables(done, ledger)
        self.record.add(stage, tables, fingerprint_of(tables), asked)

    def _tables(self, done: Sequence[LearnedTask], ledger: str | Path | None) -> list[OutcomeTable]:
        with torch_threads(self.threads):
            knows_task = self.recipe.made_learner().knows_task
            whole: Weights | Source | None = None
            if done and not knows_task:
                whole = (
                    open_model(self.parts(done)[0], allow_pickle=self.opened.allow_pickle)
                    if done[-1].composed
                    else self.weights(done)
                )
            asked = models_asked(self.opened, done, whole)
            return ask_all(asked, self.recipe, ledger, self._device)

    # ------------------------------------------------------------------ ending

    def finish(self, ledger: str | Path | None) -> tuple[dict[str, Any], Gains]:
        """Writes the model that stands after the last task, and records what was gained, kept and forgotten."""
        done = [learned for n in range(len(self.groups)) if (learned := self._learned(n))]
        result = write_result(self.opened, self.out, self.parts(done))
        gains = self.gains(ledger)
        # As `compute` counts them: every trial of a search, of which one was chosen.
        trials = max(1, len(self.recipe.made_learner().trials(self.recipe.seed, 0)))
        told = {
            "schema": 1,
            "result": result.name,
            "base": {"path": self.recipe.base, "fingerprint": self.opened.base.fingerprint()},
            "fingerprint": open_model(
                str(result), base=self.opened.base, allow_pickle=self.opened.allow_pickle
            ).fingerprint,
            "form": self.recipe.form,
            "objective": self.recipe.objective,
            "learner": self.recipe.learner,
            "options": self.recipe.made_learner().options.model_dump(mode="json"),
            "steps": sum(one.steps for one in done),
            "best_step": sum(one.steps for one in done),
            "stopped_early": False,
            "learning_rate": max(one.learning_rate for one in done),
            "seed": self.recipe.seed,
            "asked": self.opened.asked(),
            "examples": {"train": len(self.opened.lessons.train), "valid": 0},
            "cost": {
                "steps": trials * sum(one.steps for one in done),
                "examples": trials * sum(one.examples for one in done),
                "tokens": 0,
            },
            **measured_sequence(self.opened, self.record, done),
            **gains.to_dict(),
        }
        text = json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        staging.write_text(self.out / RESULT_FILE, text)
        (self.out / REPORT_FILE).unlink(missing_ok=True)
        return told, gains

    def gains(self, ledger: str | Path | None) -> Gains:
        """Base and last model on the test split of every task; what the ledger knows is not asked again."""
        done = [learned for n in range(len(self.groups)) if (learned := self._learned(n))]
        return joined_gains(self.opened, self._tables([], ledger), self._tables(done, ledger))
