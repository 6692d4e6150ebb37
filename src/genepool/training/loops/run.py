"""Runs a loop: every stage once, each durable when it ends, so that a killed loop goes on to the same bits.

A stage's lines and what it trained are published before the mark that says it is finished; a stage without its mark
runs again, and a training within it goes on from its own last state. In the end base and result are asked the test
split of every task. Uses the stages, one after the other; `genepool train` drives it.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genepool import locking, progress, staging
from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.measure import check_gated_tasks, load_gates
from genepool.own_inputs import refuse_own_input
from genepool.seeding import derive
from genepool.tasks import LanguageModel, Task, open_model
from genepool.tasks.network import Network
from genepool.threads import torch_threads
from genepool.training.folder import REPORT_FILE
from genepool.training.gains import Gains, measure_gains
from genepool.training.loops.data import Line, lines_of, read_lines, write_lines
from genepool.training.loops.folder import (
    LOOP_FILE,
    RECORD_FILE,
    RESULT_FILE,
    SKILL,
    START,
    StageMark,
    check_same_loop,
    clear_loop,
    loop_text,
    read_loop_result,
    read_mark,
    read_record,
    stage_folder,
    trained_parts,
)
from genepool.training.loops.recipe import Loop, load_loop
from genepool.training.loops.stage import Stage, StagePlace
from genepool.training.opened_training import OpenedTraining
from genepool.training.rewards import Rewards
from genepool.training.run import sensible_threads
from genepool.training.summed_change import SummedChange
from genepool.training.train import TrainingResult
from genepool.weights import Form, ModelDifference, open_change, open_weights, store


@dataclass
class _LoopState:
    """What the stages so far have left.

    Attributes:
        parts: what was trained, in the order in which it goes onto the base.
        lines: the stage that wrote the lines of a name.
        marks: every finished stage.
    """

    parts: list[Path]
    lines: dict[str, StageMark] = field(default_factory=dict)
    marks: list[StageMark] = field(default_factory=list)

    def add(self, mark: StageMark) -> None:
        """Goes past a finished stage."""
        if mark.result:
            self.parts = [*([] if mark.fresh else self.parts), mark.folder / mark.result]
        self.lines |= dict.fromkeys(mark.lines, mark)
        self.marks.append(mark)


def run_loop(
    loop: Loop,
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
) -> TrainingResult:
    """Runs a loop, or goes on with one that was stopped; then says what was gained and what was forgotten.

    Args:
        loop: the loop.
        out: its folder; one that holds this loop already is gone on with.
        ledger, device, trusted, allow_pickle, overwrite, gate, draw: as for `genepool.training.run_training`.
        fork: folder of another loop or training of the same base: begin with what that one has learned so far.

    Raises:
        InputError: something the loop names is wrong, it changed since it began, or a stage has nothing to go on with.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    out = Path(out)
    with progress.bar("opening the base and the tasks"):
        run = LoopRun(
            loop,
            out,
            device=device,
            fork=None if fork is None else Path(fork),
            trusted=trusted,
            allow_pickle=allow_pickle,
        )
    if gate is not None:
        check_gated_tasks(load_gates(gate), [*run.tasks, *(task.name for task in run.opened.others)], gate)
    if overwrite or not (out / RECORD_FILE).is_file():
        staging.check_free(out, overwrite=overwrite)
    needed = [run.opened.base.folder, loop.base, *loop.names(), fork if overwrite else None]
    refuse_own_input(out, (one for one in needed if one is not None))
    with locking.locked(out), locking.reporting_full_disk(out):
        if overwrite and out.is_dir():
            clear_loop(out)
        out.mkdir(parents=True, exist_ok=True)
        run.begin()
        known = read_loop_result(out)
        if known is not None and known["asked"] == run.opened.asked():
            progress.message("this loop is finished; for more rounds, name another --out")
            if draw is None or (out / REPORT_FILE).is_file():
                return TrainingResult(out, known, resumed=True)
        told, gains = run.finish(run.run(), ledger) if known is None else run.measure(known, ledger)
        result = TrainingResult(out, told, resumed=known is not None, gains=gains)
        if draw is not None:
            draw(result)
    return result


def loop_gains_of(
    out: Path,
    *,
    ledger: str | Path | None = None,
    device: str = "cpu",
    trusted: Collection[str | Path] = (),
    allow_pickle: bool = False,
) -> Gains:
    """Before and after of a finished loop, out of the ledger; what that lost is asked again.

    Args:
        out: its folder.
        ledger, device, trusted, allow_pickle: as for `run_loop`.

    Raises:
        InputError: the loop is not finished, or what it names is gone.
    """
    if read_loop_result(out) is None:
        raise InputError("holds no finished loop", where=out, fix="Name the --out of a `genepool train` of a loop")
    return LoopRun(load_loop(out / LOOP_FILE), out, device=device, trusted=trusted, allow_pickle=allow_pickle).gains(
        ledger
    )


class LoopRun:
    """One loop in its folder.

    Args:
        loop: the loop.
        out: its folder.
        device: torch's name of the device.
        fork: folder of the loop or training whose result this one begins with.
        trusted, allow_pickle: as for `run_loop`.

    Raises:
        InputError: something that the loop names is wrong, or cannot work together.
    """

    def __init__(
        self,
        loop: Loop,
        out: Path,
        *,
        device: str = "cpu",
        fork: Path | None = None,
        trusted: Collection[str | Path] = (),
        allow_pickle: bool = False,
    ) -> None:
        self.loop, self.out, self._device, self._fork = loop, out, device, fork
        self._trusted, self._allow_pickle = trusted, allow_pickle
        plain = {"base": loop.base, "tasks": loop.tasks, "others": loop.others, "test": loop.test, "seed": loop.seed}
        asked: dict[str, Any] = {"objective": "likelihood", "options": {}, "teacher": None}
        self.opened = OpenedTraining.open(
            loop.training_of(**plain, **asked), trusted=trusted, allow_pickle=allow_pickle
        )
        kind = open_model(self.opened.base).kind
        if not issubclass(kind, LanguageModel):
            raise InputError(
                f"{kind.kind} cannot write the data of a loop", where=loop.base, fix="Name a causal language model"
            )
        self.tasks: dict[str, Task] = {task.name: task for task in self.opened.lessons.tasks}
        for task in self.tasks.values():
            lines_of(task, "train")
            if task.settings.few_shot:
                raise InputError(
                    "shows solved examples before each question, which a loop would draw from its own data",
                    where=f"{task.name}:few_shot",
                    fix="Leave few_shot out",
                )
        for round_, number, stage in loop.plan():
            try:
                stage.check(loop, self.tasks)
            except InputError as error:
                raise loop.placed(error, round_, number, stage) from None
        self._loaded: tuple[str, Network] | None = None
        self.threads = loop.threads or sensible_threads(self.opened.base)

    # ------------------------------------------------------------------ beginning

    def begin(self) -> None:
        """Records what this loop is, or checks that it still is what was recorded.

        Raises:
            InputError: it changed; what differs is named.
        """
        known = read_record(self.out)
        if known is None and self._fork is not None:
            self._copy_start(trained_parts(self._fork))
        settings = self._settings(known)
        if known is not None:
            check_same_loop(known, settings, self.out / RECORD_FILE)
        else:
            text = json.dumps({"schema": 1, "settings": settings}, indent=2, ensure_ascii=False) + "\n"
            staging.write_text(self.out / RECORD_FILE, text)
        staging.write_text(self.out / LOOP_FILE, loop_text(self.loop))

    def _settings(self, known: Mapping[str, Any] | None) -> dict[str, Any]:
        """Everything that decides the bits of the result, as plain data."""
        if known is not None and self.loop.threads is None and is_whole(known.get("threads"), 1):
            self.threads = known["threads"]
        # Where something lies may change; what it is may not.
        nowhere = self.loop.with_paths(lambda path: Path(path).name)
        plain = nowhere.model_dump(mode="json", exclude={"base", "tasks", "others", "test", "threads"})
        rewards = [Rewards(reward) for *_, one in self.loop.plan() if (reward := getattr(one.options, "reward", None))]
        judges = [one.settings() for one in rewards if one.models()]
        return {
            **plain,
            **({"rewards": judges} if judges else {}),
            "base": self.opened.base.fingerprint(),
            "tasks": list(self.tasks),
            "lessons": self.opened.lessons.digest(),
            "threads": self.threads,
            "device": self._device,
            "start": [open_weights(self._model([part])).fingerprint() for part in self._started()],
        }

    def _copy_start(self, parts: list[Path]) -> None:
        """What a fork begins with, on the disk before the record says so: the other folder is not needed again."""
        shutil.rmtree(self.out / START, ignore_errors=True)
        with staging.staged_folder(self.out / START) as unfinished:
            for number, part in enumerate(parts, 1):
                target = unfinished / f"{number:04d}{part.suffix}"
                if part.is_dir():
                    shutil.copytree(part, target)
                else:
                    shutil.copyfile(part, target)

    def _started(self) -> list[Path]:
        folder = self.out / START
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _model(self, parts: list[Path]) -> str:
        return "+".join([self.loop.base, *map(str, parts)])

    # ------------------------------------------------------------------ stages

    def run(self) -> _LoopState:
        """Runs the stages that are not finished.

        Raises:
            InputError: a stage has nothing to go on with, or what it needs was changed.
        """
        state = _LoopState(self._started())
        plan = self.loop.plan()
        with progress.bar("running the loop", len(plan), "stages") as bar, torch_threads(self.threads):
            for round_, number, stage in plan:
                folder = stage_folder(self.out, round_, number, stage.name)
                bar.note(f"round {round_}: {stage.name}")
                state.add(read_mark(folder) or self._run_stage(stage, folder, round_, number, state))
                bar.advance()
        return state

    def _run_stage(self, stage: Stage, folder: Path, round_: int, number: int, state: _LoopState) -> StageMark:
        self._forget_after(folder)
        if folder.is_dir() and not stage.resumes:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        place = StagePlace(
            self.loop,
            folder,
            round_,
            derive(self.loop.seed, "loop", round_, number),
            self.tasks,
            {task.name: task for task in self.opened.others},
            {name: functools.partial(self._read, name, mark) for name, mark in state.lines.items()},
            self.loop.base,
            self._model(state.parts),
            self._load,
            self._device,
            self.threads,
            self._trusted,
            self._allow_pickle,
        )
        if stage.trains or stage.alters:
            # The model that is trained takes the place of the one that was asked.
            self._loaded = None
        done = stage.run(place)
        if stage.alters:
            self._loaded = None
        lines = {name: write_lines(folder / f"{name}.jsonl", found) for name, found in done.lines.items()}
        mark = StageMark(
            folder,
            round_,
            number,
            stage.name,
            json.loads(json.dumps(done.told)),
            done.tokens,
            done.steps,
            frozenset(done.labels),
            done.result,
            done.fresh,
            lines,
        )
        mark.write()
        return mark

    def _forget_after(self, folder: Path) -> None:
        """Removes later stages: what they hold was made from what this one had made before it was removed."""
        for path in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []:
            if path.name > folder.name:
                shutil.rmtree(path)

    def _read(self, name: str, mark: StageMark) -> list[Line]:
        return read_lines(
            mark.folder / f"{name}.jsonl",
            mark.lines[name],
            {task.name: task for task in (*self.tasks.values(), *self.opened.others)},
        )

    def _load(self, name: str) -> Network:
        """A model in memory; the last one stays there, for the next stage."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            model = open_model(open_weights(name, allow_pickle=self._allow_pickle)).load(self._device, self.loop.dtype)
            assert isinstance(model, Network)
            self._loaded = name, model
        return self._loaded[1]

    # ------------------------------------------------------------------ ending

    def finish(self, state: _LoopState, ledger: str | Path | None) -> tuple[dict[str, Any], Gains]:
        """Writes what all rounds changed of the base as one skill, measures it, and records the end."""
        base = self.opened.base
        if self.loop.form == "lora" and not any(part.suffix for part in state.parts):
            changes = [open_change(str(part), base) for part in state.parts]
            form = None
        else:
            tuned = open_weights(self._model(state.parts), allow_pickle=self._allow_pickle)
            changes, form = [ModelDifference(tuned, base)], Form("dense")
        change = SummedChange(changes, [part.relative_to(self.out).as_posix() for part in state.parts])
        words = {"name": ", ".join(self.tasks)}
        arguments = {"rounds": self.loop.rounds, "seed": self.loop.seed, "genepool": version("genepool")}
        store(change, self.out / SKILL, form, "train", arguments, words=words, overwrite=True)
        labels = frozenset(one for mark in state.marks for one in mark.labels)
        told = {
            "schema": 1,
            "result": SKILL,
            "base": {"path": self.loop.base, "fingerprint": base.fingerprint()},
            "fingerprint": open_weights(str(self.out / SKILL), base=base).fingerprint(),
            "form": self.loop.form,
            "rounds": self.loop.rounds,
            "seed": self.loop.seed,
            "steps": sum(mark.steps for mark in state.marks),
            "tokens_generated": sum(mark.tokens for mark in state.marks),
            "labels": len(labels),
            "stages": [
                {key: value for key, value in mark.to_dict().items() if key not in ("schema", "lines", "number")}
                for mark in state.marks
            ],
        }
        return self.measure(told, ledger)

    def measure(self, told: dict[str, Any], ledger: str | Path | None) -> tuple[dict[str, Any], Gains]:
        """Asks base and result what is to be asked, and records it."""
        gains = self.gains(ledger)
        told = {**told, "asked": self.opened.asked(), **gains.to_dict()}
        text = json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        staging.write_text(self.out / RESULT_FILE, text)
        (self.out / REPORT_FILE).unlink(missing_ok=True)
        return told, gains

    def gains(self, ledger: str | Path | None) -> Gains:
        """Base and result on the test split of every task; what the ledger knows is not asked again."""
        with torch_threads(self.threads):
            return measure_gains(
                self.opened.base,
                open_weights(str(self.out / SKILL), base=self.opened.base),
                self.opened.lessons.tasks,
                self.opened.others,
                ledger=ledger,
                limit=self.loop.test,
                device=self._device,
                dtype=self.loop.dtype,
            )
