"""Runs an adapter along a stream in a folder, honestly: issued outcomes are committed before anything is learned.

DIR/stream.sqlite      every example as it was issued, beside the frozen model's answer (`stream_record`)
DIR/state/             all that is needed to go on, after every so many batches (`saved_states`)
DIR/skill.safetensors  what the model has become, where that is a change of its base
DIR/adapt.json         what it came to; written last
DIR/report.html        the page

A batch is a function of (seed, number), so a run that was killed at any moment goes on to the same rows and the same
bits. Uses the adaptation, the record and the results; `genepool adapt` calls it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genepool import locking, progress, staging
from genepool.adaptation.adaptation import Adaptation
from genepool.adaptation.augmentation import told_cost
from genepool.adaptation.domain_course import domain_ends, part_of
from genepool.adaptation.learned_skill import learned_change, why_no_skill, write_learned
from genepool.adaptation.results import CLEAN, WHOLE, comparison_of, results_of
from genepool.adaptation.saved_states import has_state
from genepool.adaptation.stream import Stream, is_stream, load_stream
from genepool.adaptation.stream_lines import StreamExample
from genepool.adaptation.stream_record import StreamRecord
from genepool.adaptation.stream_step import StreamStep
from genepool.bounded import read_text
from genepool.checked import differences, is_line, is_number, is_text, is_whole, parsed_json
from genepool.errors import InputError
from genepool.measure import Comparison, check_gated_tasks, load_gates
from genepool.own_inputs import refuse_own_input
from genepool.tasks import load_tasks

RECORD_FILE, STATE_FOLDER, RESULT_FILE, REPORT_FILE = "stream.sqlite", "state", "adapt.json", "report.html"
SKILL_FILE = "skill.safetensors"
#: The state is kept, and the clean set looked at, after so many batches.
EVERY = 25


@dataclass(frozen=True)
class Adapting:
    """What a run on a stream is asked for.

    Attributes:
        model: the name of the model.
        stream: the folder of the stream.
        adapter: its name.
        options: of the adapter.
        order, rounds: the stream's own when None.
        labels_late: labels come so many batches later; never when None.
        window: where a batch is one example, so many are learned from together; each alone when None.
        clean: a task folder or a stream of examples that show what is forgotten; none when None.
        on_collapse: what to do when the watch raises an alarm.
        seed: of every draw.
        dtype: what the model computes in.
        threads: torch's; decided by the size of the model when None.
    """

    model: str
    stream: str
    adapter: str
    options: Mapping[str, Any] = field(default_factory=dict)
    order: str | None = None
    rounds: int | None = None
    labels_late: int | None = None
    window: int | None = None
    clean: str | None = None
    on_collapse: str = "continue"
    seed: int = 0
    dtype: str = "float32"
    threads: int | None = None


@dataclass(frozen=True)
class AdaptationResult:
    """A finished run.

    Attributes:
        out: its folder.
        told: what `adapt.json` says.
        comparison: frozen against adapted over the last round; None where no example has a label.
        resumed: whether it was finished before this call, and nothing was done.
    """

    out: Path
    told: dict[str, Any]
    comparison: Comparison | None
    resumed: bool = False


def run_adaptation(
    recipe: Adapting,
    out: str | Path,
    *,
    device: str = "cpu",
    allow_pickle: bool = False,
    trusted: Collection[str | Path] = (),
    overwrite: bool = False,
    gate: str | Path | None = None,
    draw: Callable[[AdaptationResult], object] | None = None,
) -> AdaptationResult:
    """Runs along a stream, or goes on with a run that was stopped.

    Args:
        recipe: what is asked for.
        out: its folder; one that holds this run already is gone on with.
        device: torch's name of the device.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.
        trusted: files of tasks that may run code.
        overwrite: begin anew, replacing the folder `out` with everything in it.
        gate: file of the gates that the result will be held against; only checked to be on what is measured.
        draw: draws the page, while nobody else may write to `out`.

    Raises:
        InputError: something that is asked for is wrong, or changed since the run began.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    out = Path(out)
    if overwrite or not (out / RECORD_FILE).is_file():
        staging.check_free(out, overwrite=overwrite)
    named = [recipe.model, *recipe.model.split("+"), recipe.stream, recipe.clean, gate]
    refuse_own_input(out, [one for one in named if one])
    clean = None if recipe.clean is None else load_clean(recipe.clean, trusted)
    with progress.bar("opening the model and the stream"):
        stream = load_stream(recipe.stream)
        if gate is not None:
            known = {one.domain or WHOLE for one in stream.examples} | ({CLEAN} if clean else set())
            check_gated_tasks(load_gates(gate), known, gate)
        run = Adaptation(
            recipe.model, stream, recipe.adapter, options=recipe.options, order=recipe.order, rounds=recipe.rounds,
            labels_late=recipe.labels_late, window=recipe.window, on_collapse=recipe.on_collapse, seed=recipe.seed,
            device=device, dtype=recipe.dtype, allow_pickle=allow_pickle,
            threads=recipe.threads or _known_threads(out, overwrite),
        )  # fmt: skip
    if clean is not None:
        run.looking(clean)
    if run.augments:
        progress.message(told_cost(run.augmentation_cost))
    with locking.locked(out), locking.reporting_full_disk(out):
        if overwrite and out.is_dir():
            clear(out)
        out.mkdir(parents=True, exist_ok=True)
        with StreamRecord(out / RECORD_FILE) as record:
            digest = None if clean is None else clean.digest
            settings = {**run.identity(), "device": device, "threads": run.threads, "clean": digest}
            if run.stream.horizon:
                settings["block"] = run.task.block
            _check_same(record.begin(settings), settings, out / RECORD_FILE)
            if (told := read_adapted(out)) is not None:
                progress.message("this run is finished; to run again, name another --out or pass --overwrite")
                result = AdaptationResult(out, told, comparison_of(record, recipe.seed), resumed=True)
            else:
                _go_on(run, record, out, clean)
                told = _finished(run, record, out, recipe)
                result = AdaptationResult(out, told, comparison_of(record, recipe.seed))
            if draw is not None and not (out / REPORT_FILE).is_file():
                draw(result)
    return result


def _known_threads(out: Path, overwrite: bool) -> int | None:
    """The threads that a run began with, on whatever machine: another number gives other bits."""
    if overwrite or not (out / RECORD_FILE).is_file():
        return None
    with StreamRecord(out / RECORD_FILE) as record:
        known = record.get("settings", {}).get("threads")
    return known if is_whole(known, 1, 4096) else None


def load_clean(path: str | Path, trusted: Collection[str | Path] = ()) -> Stream:
    """The examples that show what is forgotten: those of a stream, or the test examples of tasks.

    Raises:
        InputError: there are none.
    """
    if is_stream(path):
        return load_stream(path)
    examples = [
        StreamExample(
            f"{task.name}/{one.id}",
            str(one.image.path) if one.image else one.prompt,
            (),
            one.answer,
            task.name,
            image=one.image.digest if one.image else "",
        )
        for task in load_tasks(path, trusted=trusted)
        for one in task.examples("test")
    ]
    return Stream("clean", tuple(examples), where=str(path))


def clear(out: Path) -> None:
    """Empties the folder; what says that a run is finished goes first, what says that one is here last."""
    staging.empty(out, {RECORD_FILE: 1, f"{RECORD_FILE}-wal": 1, f"{RECORD_FILE}-shm": 1, RESULT_FILE: -1})


def _check_same(known: Mapping[str, Any], settings: Mapping[str, Any], where: Path) -> None:
    """Refuses to go on with another run."""
    if found := differences(dict(known), json.loads(json.dumps(settings))):
        raise InputError(
            "the run changed since it began: " + "; ".join(found),
            where=where,
            fix="Undo the change to resume, name another --out, or pass --overwrite",
        )


def _go_on(run: Adaptation, record: StreamRecord, out: Path, clean: Stream | None) -> None:
    """The batches that are missing."""
    state = out / STATE_FOLDER
    if has_state(state):
        run.restore(state)
        progress.message(f"resuming after batch {run.done} of {len(run.batches)}")
    elif clean is not None:
        record.looked(0, *run.look(clean))
    ends = domain_ends(run.stream, run.batches)
    if ends and not run.done:
        _look_at_domains(run, record, ends, 0)
    if run.stopped:
        return
    with progress.bar("adapting", len(run.batches), "batches") as bar:
        bar.advance(run.done)
        for step in run:
            record.issue(step)
            update = run.update()
            assert update is not None
            record.learned(step, update)
            if step.number in ends:
                _look_at_domains(run, record, ends, 1 + list(ends).index(step.number))
            bar.advance()
            bar.note(_said(step, update.alarm))
            if run.done % EVERY == 0 or run.done == len(run.batches) or run.stopped:
                if clean is not None:
                    record.looked(run.done, *run.look(clean))
                run.save(state)


def _look_at_domains(run: Adaptation, record: StreamRecord, ends: Mapping[int, str], ended: int) -> None:
    """Scores on every domain, after so many of them were over."""
    scores = {}
    for domain in ends.values():
        ours, _ = run.look(part_of(run.stream, domain))
        scores[domain] = sum(ours) / len(ours)
    record.looked_at_domains(ended, scores)


def _said(step: StreamStep, alarm: str) -> str:
    scores = [one for one in step.scores(step.predicted) if one is not None]
    right = f", {sum(scores) / len(scores):.1%} right" if scores else ""
    if step.asked == "series":
        right = f", error {sum(step.errors(step.predicted)) / len(step.keys):.3g}"
    return f"round {step.round}{right}{f': {alarm}' if alarm else ''}"


def _finished(run: Adaptation, record: StreamRecord, out: Path, recipe: Adapting) -> dict[str, Any]:
    """Writes the skill and the result."""
    change = learned_change(run.base, run.adapter.result(), run.stream.name)
    if change is not None:
        write_learned(change, out / SKILL_FILE, run.lineage())
    identity = run.identity()
    told = {
        "schema": 1,
        "model": {"path": recipe.model, "fingerprint": identity.pop("model")},
        "stream": {"path": recipe.stream, "name": run.stream.name, "digest": identity.pop("stream")},
        **identity,
        "batch": run.stream.batch,
        "batches": run.done,
        "stopped": run.stopped,
        "skill": None if change is None else SKILL_FILE,
        "no_skill": why_no_skill(run.adapter.result()) if change is None else "",
        "trains": run.adapter.trains,
        "augments": run.augments,
        "augmentation_cost": run.augmentation_cost,
        **results_of(record, recipe.seed),
    }
    staging.write_text(out / RESULT_FILE, json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    return told


def read_adapted(out: Path) -> dict[str, Any] | None:
    """What `adapt.json` of a finished run says; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    path = out / RESULT_FILE
    if not path.is_file():
        return None
    fix = "Remove it and run the same command: it is written again"
    try:
        told = parsed_json(read_text(path, fix=fix))
    except ValueError as error:
        raise InputError(f"cannot be read ({error})", where=path, fix=fix) from None
    if not isinstance(told, dict) or told.get("schema") != 1:
        raise InputError("is not the result of a run that this version reads", where=path, fix=fix)
    wrong = next((key for key, fits in _KEYS.items() if not fits(told.get(key))), None) or _at_odds(told)
    if wrong is not None:
        raise InputError("is damaged", where=f"{path}:{wrong}", fix=fix)
    if told.get("skill") is not None and not (out / SKILL_FILE).is_file():
        raise InputError("the skill is missing", where=out / SKILL_FILE, fix=f"Remove {path} and run the same command")
    # What may be null may be left out as well.
    return {**dict.fromkeys(_KEYS), **told}


def _at_odds(told: Mapping[str, Any]) -> str | None:
    """The key of a result that others contradict; None where there is none."""
    scored = told["history"] and None not in (told.get("frozen"), told.get("adapted"))
    if told.get("verdict") is not None and not scored:
        return "verdict"
    return "clean_before" if told.get("clean_before") is None and told.get("clean_after") is not None else None


def _maybe(value: object) -> bool:
    return value is None or is_number(value)


def _is_interval(value: object) -> bool:
    return value is None or _are_numbers(value, ("mean", "lo", "hi"))


def _is_course(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    names, after = value.get("domains"), value.get("after")
    if not isinstance(names, list) or not all(map(is_line, names)) or not isinstance(after, list):
        return False
    rows = [value.get("before"), *after]
    whole = all(isinstance(row, list) and len(row) == len(names) and all(map(is_number, row)) for row in rows)
    means = ("average", "backward_transfer", "forward_transfer", "forgetting")
    return whole and len(rows) == len(names) + 1 and _are_numbers(value, means)


def _are_errors(value: object) -> bool:
    whole = isinstance(value, dict) and all(key in value and _maybe(value[key]) for key in ("adapted", "late"))
    return whole and _are_numbers(value, ("frozen", "block"))


def _are_numbers(value: object, keys: Sequence[str]) -> bool:
    return isinstance(value, dict) and all(is_number(value.get(key)) for key in keys)


def _is_round(value: object) -> bool:
    keys = ("round", "n", "frozen", "adapted", "difference", "verdict")
    if not isinstance(value, dict) or not all(key in value for key in keys):
        return False
    scored = all(map(is_number, (value["frozen"], value["adapted"]))) and is_text(value["verdict"])
    whole = is_whole(value["round"], 1) and is_whole(value["n"], 0) and _is_interval(value["difference"])
    return whole and (scored or value["difference"] is None)


def _are_rounds(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_round, value))


def _are_events(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and is_whole(one.get("round"), 1)
        and is_whole(one.get("batch"), 0)
        and all(map(is_text, (one.get("alarm"), one.get("reset"))))
        for one in value
    )


def _are_looks(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and is_whole(one.get("batches"), 0)
        and is_number(one.get("frozen"), 0, 1)
        and is_number(one.get("adapted"), 0, 1)
        for one in value
    )


# What the rest of the house reads of `adapt.json`.
_KEYS: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, dict) and all(map(is_text, map(value.get, ("path", "fingerprint")))),
    "stream": lambda value: isinstance(value, dict) and all(map(is_text, map(value.get, ("path", "name", "digest")))),
    "trains": is_text,
    "stopped": lambda value: isinstance(value, bool),
    "adapter": is_text,
    "options": lambda value: isinstance(value, dict),
    "order": is_text,
    "rounds": is_whole,
    "batches": is_whole,
    "seed": is_whole,
    "skill": lambda value: value in (None, SKILL_FILE),
    # Runs of before did not say why there is none.
    "no_skill": lambda value: value is None or is_line(value, 200),
    "frozen": _maybe,
    "adapted": _maybe,
    "difference": _is_interval,
    "verdict": lambda value: value is None or is_text(value),
    "resets": is_whole,
    "clean_before": _maybe,
    "clean_after": _maybe,
    "history": _are_rounds,
    "events": _are_events,
    "clean": _are_looks,
    "augments": lambda value: isinstance(value, bool),
    "augmentation_cost": _maybe,
    "unknown": lambda value: value is None or _are_numbers(value, ("n", "frozen", "adapted")),
    "error": lambda value: value is None or _are_errors(value),
    "course": lambda value: value is None or _is_course(value),
}
