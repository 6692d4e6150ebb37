"""Trains from a recipe to a result: what `genepool train` and `genepool verify-run` call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import locking, progress, staging
from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.measure import check_gated_tasks, load_gates
from genepool.own_inputs import refuse_own_input
from genepool.threads import torch_threads
from genepool.training.fit import TrainingDiverged
from genepool.training.folder import JOURNAL_FILE, RECIPE_FILE, REPORT_FILE, clear, read_result
from genepool.training.gains import Gains, measure_gains
from genepool.training.journal import SCORES, Journal
from genepool.training.opened_training import OpenedTraining
from genepool.training.recipe import Training, load_training
from genepool.training.run import Run

if TYPE_CHECKING:
    from genepool.training.continual.retrieved import WritePool


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes:
        out: its folder.
        told: what `train.json` says.
        resumed: whether it was finished before this call, and nothing was done.
        gains: the outcomes behind it, where they were computed by this call.
    """

    out: Path
    told: dict[str, Any]
    resumed: bool = False
    gains: Gains | None = None

    @property
    def result(self) -> Path:
        """The adapter or skill."""
        return self.out / str(self.told["result"])


def run_training(
    recipe: Training,
    out: str | Path,
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
    """Trains, or goes on with a training that was stopped; then says what was gained and what was forgotten.

    Args:
        recipe: the training.
        out: its folder; one that holds this training already is gone on with.
        ledger: where outcomes before and after are kept; `$GENEPOOL_LEDGER`, else `genepool.sqlite` here.
        device: torch's name of the device.
        fork: folder of another training of the same form: begin with what that one had learned.
        trusted: files of tasks that may run code.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.
        overwrite: begin anew, replacing the folder `out` with everything in it.
        gate: file of the gates that the result will be held against; one on a task that is not asked is refused before
            anything is trained.
        draw: draws the page, while nobody else may write to `out`; pages stand in a later room.
        write_pool: writes a pool of adapters as a composition, for learners whose result it is; compositions do too.

    Raises:
        InputError: something the recipe names is wrong, the training changed since it began, or the loss is no number.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    out = Path(out)
    if recipe.learner is not None:
        from genepool.training.continual.run import run_sequence

        return run_sequence(
            recipe, out, ledger=ledger, device=device, fork=fork, trusted=trusted, allow_pickle=allow_pickle,
            overwrite=overwrite, gate=gate, draw=draw, write_pool=write_pool,
        )  # fmt: skip
    with progress.bar("opening the base and the tasks"):
        opened = OpenedTraining.open(recipe, trusted=trusted, allow_pickle=allow_pickle)
    if gate is not None:
        check_gated_tasks(load_gates(gate), [task.name for task in (*opened.lessons.tasks, *opened.others)], gate)
    _check_place(out, opened, fork, overwrite)
    with locking.locked(out), locking.reporting_full_disk(out), _nothing_left(out):
        if overwrite and out.is_dir():
            clear(out)
        out.mkdir(parents=True, exist_ok=True)
        with Journal(out / JOURNAL_FILE) as journal:
            run = Run(opened, out, journal, device=device, fork=None if fork is None else Path(fork))
            run.begin()
            if (known := read_result(out)) is not None:
                progress.message(
                    f"this training is finished: {known['steps']} steps; to train further, name another --out"
                )
                if known["asked"] == opened.asked() and (draw is None or (out / REPORT_FILE).is_file()):
                    return TrainingResult(out, known, resumed=True)
                known, gains = run.measure_again(known, ledger)
                result = TrainingResult(out, known, resumed=True, gains=gains)
            else:
                run.train()
                told, gains = run.finish(ledger)
                result = TrainingResult(out, told, gains=gains)
            if draw is not None:
                draw(result)
    return result


@contextmanager
def _nothing_left(out: Path) -> Iterator[None]:
    """Removes a folder that was not there before, where something was wrong before anything was learned.

    It stays where steps were taken, where a writer was asked or examples were made or scored, and where the loss is no
    number.
    """
    new = not os.path.lexists(out)
    try:
        yield
    except TrainingDiverged:
        raise
    except InputError:
        if new and (out / JOURNAL_FILE).is_file():
            with Journal(out / JOURNAL_FILE) as journal:
                made = any(one.examples or one.told.get("tokens") for one in journal.rounds())
                begun = made or bool(journal.steps() or journal.get(SCORES, None))
            if not begun:
                shutil.rmtree(out)
        raise


def _check_place(out: Path, opened: OpenedTraining, fork: str | Path | None, overwrite: bool) -> None:
    """Refuses a folder that holds something else, or what the training is made from.

    Raises:
        InputError: as `staging.check_free`, or the base, a task or the fork lies in it.
    """
    if overwrite or not (out / JOURNAL_FILE).is_file():
        staging.check_free(out, overwrite=overwrite)
    recipe = opened.recipe
    named = [recipe.base, recipe.teacher or "", recipe.writer or "", *recipe.made_objective().models()]
    models = [part for name in named for part in (name, *name.split("+")) if part]
    students = [path for key in recipe.sampler_paths for path in recipe.sampler_options.get(key, ())]
    needed = [opened.base.folder, *recipe.tasks, recipe.others, *models, *students, fork if overwrite else None]
    refuse_own_input(out, (one for one in needed if one is not None))


def verify_step(out: str | Path, step: int, *, device: str = "cpu", allow_pickle: bool = False) -> None:
    """Takes a recorded step again, from the nearest state that is kept before it, and compares every bit.

    Raises:
        InputError: there is no such step on record, or the base or the tasks are not those it began with.
        CheckFailed: a step on the way has other bits than it had.
    """
    out = Path(out)
    if not (out / JOURNAL_FILE).is_file():
        inner = next(iter(sorted(out.glob(f"stages/*/run/{JOURNAL_FILE}"))), None)
        if inner is not None:
            raise InputError("holds a loop", where=out, fix=f"Name one of its trainings, such as {inner.parent}")
        raise InputError("holds no training", where=out, fix="Name the --out of a `genepool train`")
    recipe = load_training(out / RECIPE_FILE)
    if recipe.learner is not None:
        from genepool.training.continual.opening import open_sequence
        from genepool.training.continual.run import verify_sequence

        verify_sequence(open_sequence(recipe, others=False, allow_pickle=allow_pickle), out, step, device)
        return
    opened = OpenedTraining.open(recipe, others=False, allow_pickle=allow_pickle)
    with Journal(out / JOURNAL_FILE) as journal:
        steps = journal.steps()
        if not any(row.step == step for row in steps):
            raise InputError(
                f"step {step} is not on record",
                where=out / JOURNAL_FILE,
                fix=f"Name a step below {len(steps)}",
            )
        run = Run(opened, out, journal, device=device)
        run.check()
        with torch_threads(run.threads):
            run.replay(step)


def gains_of(
    out: Path,
    *,
    ledger: str | Path | None = None,
    device: str = "cpu",
    trusted: Collection[str | Path] = (),
    allow_pickle: bool = False,
) -> Gains:
    """Before and after of a finished training, out of the ledger; what that lost is asked again.

    Args:
        out: its folder.
        ledger, device, trusted, allow_pickle: as for `run_training`.

    Raises:
        InputError: the training is not finished, or what it names is gone.
    """
    if (told := read_result(out)) is None or not (out / JOURNAL_FILE).is_file():
        raise InputError("holds no finished training", where=out, fix="Name the --out of a `genepool train`")
    recipe = load_training(out / RECIPE_FILE)
    if recipe.learner is not None:
        from genepool.training.continual.opening import open_sequence
        from genepool.training.continual.run import sequence_gains

        opened = open_sequence(recipe, trusted=trusted, allow_pickle=allow_pickle)
        return sequence_gains(opened, out, ledger, device)
    opened = OpenedTraining.open(recipe, trusted=trusted, allow_pickle=allow_pickle)
    tuned = opened.tuned(out / str(told["result"]))
    with Journal(out / JOURNAL_FILE) as journal:
        threads = journal.get("settings", {}).get("threads")
    with torch_threads(threads if is_whole(threads, 1) else None):
        return measure_gains(
            opened.before,
            tuned,
            opened.targets,
            opened.others,
            by_task=opened.tuned_by_task(out / str(told["result"])),
            ledger=ledger,
            limit=opened.recipe.test,
            device=device,
            dtype=opened.recipe.dtype,
        )
