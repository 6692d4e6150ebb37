"""One training in its folder: every step durable, so that a killed run goes on, to the same bits.

A step is committed to the journal with a hash of what is trained; every so many steps the model is validated and its
state kept. What is written at the end is the state of the lowest validation loss. Uses `session`; `train` drives it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genepool import progress, staging
from genepool.checked import is_whole
from genepool.errors import CheckFailed, InputError
from genepool.tasks import open_model
from genepool.tasks.network import Network
from genepool.threads import core_count, torch_threads
from genepool.training.card import card
from genepool.training.first_training import FirstTraining
from genepool.training.fit import Diverged, Step, TrainingDiverged, fit
from genepool.training.folder import (
    JOURNAL_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    RESULT_FILE,
    check_same,
    check_same_base,
    forked_state,
    recipe_text,
)
from genepool.training.gains import Gains, measure_gains
from genepool.training.journal import SCORES, Journal, StepRow, Validation, digest_of
from genepool.training.metrics_log import MetricsLog
from genepool.training.objectives import AlignedObjective
from genepool.training.opened_training import OpenedTraining
from genepool.training.reward_ensemble import RewardModelSource
from genepool.training.rounds import Rounds
from genepool.training.session import Session
from genepool.training.states import States
from genepool.training.told import Ending, described, lineage
from genepool.training.writing import measure_writing
from genepool.weights import Weights, open_weights
from genepool.weights.float_rows import first_nonfinite

# Entries of a model below which one thread is as fast as two, and several times faster on a machine that is busy.
# A step of composing all-MiniLM-L6-v2, which has 22.7 million, took 1.4 CPU s with one and over 5 with two where other
# work ran.
_SMALL = 30_000_000


class Run:
    """One training in its folder.

    Args:
        opened: the recipe, opened.
        out: the folder, locked by the caller.
        journal: its record, open.
        device: torch's name of the device.
        fork: folder of the training whose result this one begins with.
    """

    def __init__(
        self, opened: OpenedTraining, out: Path, journal: Journal, *, device: str = "cpu", fork: Path | None = None
    ) -> None:
        self.opened, self.recipe, self.out, self.journal = opened, opened.recipe, out, journal
        self._device, self._fork = device, fork
        self.states = States(out)
        self._session: Session | None = None
        self._known: list[Validation] | None = None

    # ------------------------------------------------------------------ beginning

    def begin(self) -> None:
        """Records what this training is, or checks that it still is what was recorded.

        Raises:
            InputError: it changed; what differs is named.
        """
        settings = self._settings()
        if not self.journal.steps() and self.journal.get("settings", settings) != settings:
            self.states.forget_all_but(())
        if self._fork is not None and not self.states.kept() and not self.journal.steps():
            # On the disk before the record says so: a run that is gone on with no longer needs the other folder.
            self.states.put(0, self._forked)
        known = self.journal.begin(json.loads(json.dumps(settings)))
        if known is not None:
            check_same(known, settings, self.recipe, self.out / JOURNAL_FILE)
        text, file = recipe_text(self.recipe), self.out / RECIPE_FILE
        # A base or a task that was moved is found where it is now.
        if not file.is_file() or file.read_text(encoding="utf-8", errors="replace") != text:
            staging.write_text(file, text)

    def _settings(self) -> dict[str, Any]:
        known = self.journal.get("settings", None) or {}
        self.threads = self.recipe.threads or known_threads(known) or sensible_threads(self.opened.base)
        settings = {**self.opened.settings(self.threads), "device": self._device}
        if "fork" in known and (self._fork is None or self.journal.steps() or self.states.kept()):
            # A fork that was stopped goes on as one, whether or not it is said again.
            settings["fork"] = known["fork"]
        elif self._fork is not None:
            self._forked = forked_state(self._fork, self.recipe)
            with Journal(self._fork / JOURNAL_FILE) as other:
                check_same_base(other.get("settings", None) or {}, settings, self._fork)
            settings["fork"] = digest_of(self._forked)
        return settings

    def session(self) -> Session:
        """The model in memory, at the start of the training."""
        recipe = self.recipe
        with progress.bar(f"loading {self.opened.base.name}"):
            model = self._loaded(self.opened.base)
            teacher = None if recipe.teacher is None else self._teacher(recipe.teacher, model)
        return Session(recipe, model, self.opened.base, self.opened.lessons, teacher)

    def _loaded(self, weights: Weights) -> Network:
        source = open_model(weights)
        model = source.load(self._device, self.recipe.dtype)
        if not isinstance(model, Network):
            raise InputError(
                f"{source.kind.kind} has no weights to train", where=weights.name, fix="Name another model"
            )
        return model

    def _teacher(self, name: str, model: Network) -> Network:
        """The teacher; it must choose from what the model chooses from, unless the objective aligns both."""
        teacher = self._loaded(open_weights(name, allow_pickle=self.opened.allow_pickle))
        if isinstance(self.recipe.made_objective(), AlignedObjective):
            return teacher
        if type(teacher) is not type(model) or choices_of(teacher) != choices_of(model):
            what = "classes" if "classes" in model.can else "tokens"
            raise InputError(
                f"its {what} differ from those of {model.title}",
                where=teacher.title,
                fix="Name a teacher with the same tokenizer or labels, or use --objective specialise",
            )
        return teacher

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Takes the steps that are missing.

        Raises:
            InputError: the loss is no number any more; the last state before it is kept.
        """
        with torch_threads(self.threads):
            self._session = session = self.session()
            try:
                start = self._resume(session)
                self._score(session)
                if not self._stopped(start):
                    self._take(session, start)
            except Diverged as error:
                if name := first_nonfinite(self.opened.base):
                    raise InputError(
                        "holds NaN or infinity, so nothing can be learned from this base",
                        where=f"{self.recipe.base}:{name}",
                        fix="Fetch or save the base again, or name another",
                    ) from None
                kept = self.states.kept()
                last = f"the state of step {kept[-1]} is kept" if kept else "no state was kept yet"
                raise TrainingDiverged(
                    f"{error}, so the training ends; {last}",
                    where=self.out,
                    fix=f"{self._cure(session)}, in another --out or with --overwrite",
                ) from None

    def _cure(self, session: Session) -> str:
        """What to change after a loss that is no number."""
        if not self.journal.steps():
            # No step was taken, so the learning rate has no part in it.
            return "Start again with options of the objective nearer to their defaults, or with another --dtype"
        return f"Start again with a learning rate below {session.optimiser.settings.learning_rate:g}"

    def _take(self, session: Session, start: int) -> None:
        log = MetricsLog(self.out, self.journal, start)
        with log, progress.bar("training", self.recipe.steps, "steps") as bar:
            bar.advance(start)

            def after(step: Step) -> bool:
                bar.advance()
                stopped = self._after(step, session, log)
                bar.note(self._said(step, session))
                return stopped

            rounds = Rounds(self.opened, self.journal, session, self._device)
            fit(session.optimiser, rounds.gradients, after, start=start)

    def _resume(self, session: Session) -> int:
        """Puts the latest state back; the number of steps it had."""
        # A state is of use only while the best one up to it is kept too.
        usable = [step for step in self.states.kept() if not step or self._best(step) in self.states.kept()]
        start = usable[-1] if usable else 0
        if usable:
            self._restore(start, session)
        # A kill may have come between a new state and the removal of those before it.
        self.states.forget_all_but({0, start, self._best(start)})
        if not start and not self.journal.steps():
            session.trainer.before_first_step()
        if not any(one.step == 0 for one in self._recorded()):
            self._validate(0, session)
        if start:
            progress.message(f"resuming after step {start} of {self.recipe.steps}")
        return start

    def _restore(self, step: int, session: Session) -> None:
        """Puts back the state of a step, which must be the one on record."""
        self.states.restore(step, session.optimiser)
        if self.recipe.sampler is not None:
            for number, rows in self.journal.evidence(step):
                session.observe(number - 1, rows)
        row = self.journal.step(step)
        if step and (row is None or row.digest != digest_of(session.optimiser.moved())):
            raise self.states.damaged(step, "it is not the one on record")

    def _score(self, session: Session) -> None:
        """Gives a sampler of single examples its scores: those on record, or those that a first training shows now."""
        sampler = self.opened.lessons.unscored
        if sampler is None:
            return
        if (known := self.journal.scores(len(self.opened.lessons.train))) is None:
            if self.journal.steps():
                raise InputError(
                    "the scores of the training examples are not on record",
                    where=self.journal.path,
                    fix="Start again with --overwrite",
                )
            known = sampler.scores(FirstTraining(session, self.opened.lessons)).tolist()
            if not all(map(math.isfinite, known)):
                raise Diverged(0, "score of an example after")
            self.journal.set(SCORES, known)
        sampler.take(known)

    def _after(self, step: Step, session: Session, log: MetricsLog) -> bool:
        digest = digest_of(session.optimiser.moved())
        row = StepRow(step.number, step.loss, step.norm, step.rate, digest)
        self.journal.took(row, session.rows)
        log.step(row)
        if step.number % self.recipe.every == 0 or step.number == self.recipe.steps:
            if (found := self._validate(step.number, session)) is not None:
                log.validation(found)
            self.states.keep(step.number, session.optimiser)
            self.states.forget_all_but({0, step.number, self._best(step.number)})
        return self._stopped(step.number)

    def _validate(self, step: int, session: Session) -> Validation | None:
        if (scores := session.validate()) is None:
            return None
        found = Validation(step, *scores)
        if not math.isfinite(found.loss):
            raise Diverged(step, "validation loss after")
        self.journal.validated(found)
        # The first one of a step stands.
        known = self._recorded()
        if not any(one.step == step for one in known):
            known.append(found)
        return found

    def _said(self, step: Step, session: Session) -> str:
        seen = self._validations(step.number)
        valid = f" · valid {seen[-1].loss:.3f}, {seen[-1].score:.1%} right" if seen else ""
        return f"loss {step.loss:.3f}{valid} · {session.speed:.0f} examples/s"

    def _validations(self, step: int) -> list[Validation]:
        return [one for one in self._recorded() if one.step <= step]

    def _recorded(self) -> list[Validation]:
        """Every validation on record, in the order of the steps; read once."""
        if self._known is None:
            self._known = self.journal.validations()
        return self._known

    def _best(self, step: int) -> int:
        """The step of the lowest validation loss so far; the last one where nothing is validated."""
        seen = [one for one in self._validations(step) if one.step]
        return min(seen, key=lambda one: one.loss).step if seen else step

    def _stopped(self, step: int) -> bool:
        """Whether it ends after a step: all are taken, or the validation loss has not fallen for long enough."""
        if step >= self.recipe.steps:
            return True
        seen = [one.step for one in self._validations(step) if one.step]
        if not self.recipe.patience or not seen or seen[-1] != step:
            return False
        return sum(one > self._best(step) for one in seen) >= self.recipe.patience

    def replay(self, step: int) -> None:
        """Takes the steps up to one on record again, from the nearest state before it, and compares them.

        Raises:
            CheckFailed: one has other bits than it had.
        """
        session = self.session()
        before = [kept for kept in self.states.kept() if kept < step]
        if before:
            self._restore(before[-1], session)
        start = before[-1] if before else 0
        self._score(session)

        def compare(taken: Step) -> bool:
            bar.advance()
            known = self.journal.step(taken.number)
            if known is None or known.digest != digest_of(session.optimiser.moved()):
                raise CheckFailed(f"{self.out}: step {taken.number} has other bits than it had")
            return taken.number == step

        with progress.bar("taking steps again", step - start, "steps") as bar:
            try:
                rounds = Rounds(self.opened, self.journal, session, self._device, recorded=True)
                fit(session.optimiser, rounds.gradients, compare, start=start)
            except Diverged as error:
                raise CheckFailed(f"{self.out}: {error}, which it was") from None

    def check(self) -> None:
        """Checks that base, lessons and settings are those on record; writes nothing."""
        settings = self._settings()
        check_same(self.journal.get("settings", None) or {}, settings, self.recipe, self.out / JOURNAL_FILE)

    # ------------------------------------------------------------------ ending

    def finish(self, ledger: str | Path | None) -> tuple[dict[str, Any], Gains]:
        """Writes the best state as a skill, measures it before and after, and records the end."""
        told, tuned = self._written(measured=True)
        gains = self._measure(tuned, told["result"], ledger)
        told = {**told, **gains.to_dict()}
        self._write_told(told)
        return told, gains

    def finish_unmeasured(self) -> dict[str, Any]:
        """Writes the best state as a skill and records the end; base and result are asked nothing."""
        told, _ = self._written(measured=False)
        told = {**told, "target": [], "others": [], "flips": []}
        self._write_told(told)
        return told

    def _written(self, *, measured: bool) -> tuple[dict[str, Any], Weights | RewardModelSource]:
        """Writes the best state as a skill: what is told of it, scores left out, and the model with it."""
        session, last = self._session, self.states.kept()[-1]
        assert session is not None
        best = self._best(last)
        self._restore(best, session)
        result = self.out / session.trained.place
        base = self.opened.base
        control = self.recipe.made_objective().control
        with session.optimiser.in_place():
            session.trained.write(result, session.result(), base, self._lineage(best), control)
        tuned = self.opened.tuned(result)
        # What rewards does not write, nor does a base that needed a head.
        writes = measured and not isinstance(tuned, RewardModelSource) and self.opened.head is None
        written = self._writing(session) if writes else []
        # The model that was trained is as large as each of the two that are asked afterwards.
        rate = session.optimiser.settings.learning_rate
        self._session = None
        del session
        fingerprint = tuned.fingerprint if isinstance(tuned, RewardModelSource) else tuned.fingerprint()
        told = described(self.opened, self.journal, Ending(result.name, best, last, rate, fingerprint))
        return {**told, **({"writing": written} if written else {})}, tuned

    def _lineage(self, step: int) -> dict[str, Any]:
        """How the result was made, as it is kept with it."""
        return lineage(self.opened, step)

    def _writing(self, session: Session) -> list[dict[str, Any]]:
        """What the model writes now, and wrote as its base."""
        with torch_threads(self.threads):
            return measure_writing(
                session,
                self.opened.base,
                (*self.opened.lessons.tasks, *self.opened.others),
                seed=self.recipe.seed,
                control=self.recipe.made_objective().control,
                limit=self.recipe.test,
            )

    def measure_again(self, told: dict[str, Any], ledger: str | Path | None) -> tuple[dict[str, Any], Gains]:
        """Asks base and result of a finished training what is to be asked now, and records that instead."""
        tuned = self.opened.tuned(self.out / told["result"])
        gains = self._measure(tuned, told["result"], ledger)
        told = {**told, "asked": self.opened.asked(), **gains.to_dict()}
        self._write_told(told)
        (self.out / REPORT_FILE).unlink(missing_ok=True)
        return told, gains

    def _measure(self, tuned: Weights | RewardModelSource, result: str, ledger: str | Path | None) -> Gains:
        with torch_threads(self.threads):
            return measure_gains(
                self.opened.before,
                tuned,
                self.opened.targets,
                self.opened.others,
                by_task=self.opened.tuned_by_task(self.out / result),
                ledger=ledger,
                limit=self.recipe.test,
                device=self._device,
                dtype=self.recipe.dtype,
            )

    def _write_told(self, told: dict[str, Any]) -> None:
        # A card is about scores; the training of a stage has none of its own.
        if told["target"] and (result := self.out / told["result"]).is_dir():
            staging.write_text(result / "README.md", card(told))
        text = json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        staging.write_text(self.out / RESULT_FILE, text)


def choices_of(model: Network) -> object:
    """What the targets of a model mean: its labels, or the numbers of its tokens."""
    tokenizer = getattr(model, "tokenizer", None)
    return model.labels if "classes" in model.can else tokenizer.get_vocab() if tokenizer is not None else None


def known_threads(settings: Mapping[str, Any]) -> int | None:
    """The threads that a record names; None where it names none."""
    found = settings.get("threads")
    return found if is_whole(found, 1) else None


def sensible_threads(base: Weights) -> int:
    """As many as there are cores; one for a small model, whose operations are too short to be shared out."""
    entries = sum(base.info(name).numel for name in base.names())
    return 1 if entries < _SMALL else core_count()
