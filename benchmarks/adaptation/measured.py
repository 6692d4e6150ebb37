"""Measures the cells: every adapter by the public iterator, on one testbed of each kind."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.adaptation.arms import ARMS, BEDS, LATE, SEEDS, SEVEN, StreamArm, StreamBed
from benchmarks.adaptation.cells import Marks, Name, StreamCell, StreamCells
from benchmarks.adaptation.claims import CLAIMS
from benchmarks.claims.worlds import CACHE
from genepool import progress
from genepool.adaptation import Adaptation, Stream, StreamExample, all_adapters, load_stream
from genepool.adaptation.adapter import StreamBatch
from genepool.adaptation.results import auroc
from genepool.checked import is_number
from genepool.seeding import numpy_generator
from genepool.testbed import build

# Batches after which the tensors that live are counted: each adapter has its optimiser's moments by then.
_SETTLED = 3
# The frozen model is timed at one batch in so many.
_BESIDE = 3


def plan() -> list[Name]:
    """The cells, in the order of their measuring.

    First the most used adapters with their controls on mixed, then what claims need, both with all seeds, then every
    adapter on every bed that it suits, with one, and the most used with all.
    """
    used = ("frozen", "diversity", *SEVEN)
    first = [(arm, "mixed", seed) for seed in range(SEEDS) for arm in used]
    needs = [(arm, bed, seed) for claim in CLAIMS for seed in range(SEEDS) for arm, bed in claim.needs]
    pairs = [(arm, bed) for bed in BEDS.values() for arm in ARMS if suits(arm, bed)]
    each = [(arm.name, bed.name, 0) for arm, bed in pairs]
    seeds = [(arm.name, bed.name, seed) for seed in range(SEEDS) for arm, bed in pairs if arm.name in used]
    return list(dict.fromkeys([*first, *needs, *each, *seeds]))


def suits(arm: StreamArm, bed: StreamBed) -> bool:
    """Whether an arm is measured on a bed: its adapter has what it needs there, and one of them is for the other."""
    kind = all_adapters()[arm.adapter]
    if arm.only or bed.swaps or bed.name == "half_known":
        return arm.only == bed.name or (arm.name == "frozen" and not arm.only)
    there = {"images": bed.images, "features": bed.features, "linear layers": bed.linear}
    lacking = {what for what, found in there.items() if not found}
    return not kind.needs & lacking


def measure(cells: StreamCells, *, arms: Collection[str], beds: Collection[str], minutes: float | None = None) -> int:
    """Measures what is not there yet.

    Args:
        cells: where it is kept.
        arms, beds: names of these.
        minutes: begin no other cell after so many; None for no limit.

    Returns:
        How many cells are still missing.
    """
    began, missing = time.monotonic(), 0
    known = {arm.name: arm for arm in ARMS}
    for name in plan():
        arm, bed, seed = name
        if name in cells or arm not in arms or bed not in beds:
            continue
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            missing += 1
            continue
        cell = measured(known[arm], BEDS[bed], seed)
        cells.add(name, cell)
        told = " ".join(f"{cell.score(number):.3f}" for number in cell.rounds)
        progress.message(f"seed {seed}, {bed}, {arm}: {told}, frozen {cell.frozen.mean():.3f}; {cell.seconds:.4f} s")
    return missing


def measured(arm: StreamArm, bed: StreamBed, seed: int) -> StreamCell:
    """One cell.

    Args:
        arm: the adapter with its settings.
        bed: the stream.
        seed: decides which examples are taken, their order and every draw.
    """
    with progress.silenced():
        folder = opened(bed.kind)
        rates = _shuffled_rates(bed, seed) if arm.shuffled else None
        return _Run(arm, bed, seed, folder).cell(rates)


@lru_cache
def opened(kind: str) -> Path:
    """The folder of a testbed, trained where it is not there. One serves all seeds: trainings take too long."""
    folder = CACHE / "beds" / f"{kind}-0"
    build(folder, bed=kind, tiny=True, overwrite=True)
    return folder


@lru_cache(maxsize=4)
def _read(folder: Path) -> Stream:
    """The stream in a folder."""
    return load_stream(folder)


def _shuffled_rates(bed: StreamBed, seed: int) -> list[float]:
    """The rates of the homeostatic arm, batch by batch, in another order."""
    (arm,) = (arm for arm in ARMS if arm.name == "need")
    run = _Run(arm, bed, seed, opened(bed.kind))
    run.cell(None)
    rates = np.array(run.rates)
    # Before the first labels come nothing is learned: these batches keep their places.
    drawn = numpy_generator(seed, "shuffled rates").permutation(len(rates) - LATE)
    return [*rates[:LATE].tolist(), *rates[LATE:][drawn].tolist()]


class _Run:
    """One run: what an arm issues along a bed.

    Attributes:
        rates: the learning rate of each step, batch by batch; none where the adapter has no optimiser.
    """

    def __init__(self, arm: StreamArm, bed: StreamBed, seed: int, folder: Path) -> None:
        self.arm, self.bed, self.seed, self.folder = arm, bed, seed, folder
        self.rates: list[float] = []

    def cell(self, rates: list[float] | None) -> StreamCell:
        """Runs along the stream.

        Args:
            rates: learning rates by batch; the adapter's own when None.
        """
        stream = _read(self.folder / "streams" / self.bed.stream)
        stream = replace(stream, examples=stream.examples[self.seed % self.bed.every :: self.bed.every])
        stream = swapped(stream) if self.bed.swaps else stream
        late = LATE if "late labels" in all_adapters()[self.arm.adapter].needs else None
        gc.collect()
        before = living()
        run = Adaptation(
            self.folder / "base", stream, self.arm.adapter, options=self.arm.options, rounds=self.bed.rounds,
            labels_late=late, seed=self.seed, threads=1,
        )  # fmt: skip
        spent = _Spent(run)
        # Examples with labels of known classes stand in the order of the file, whatever order they come in.
        scored = [at for at, one in enumerate(stream.examples) if one.answer is not None and one.known]
        rounds = {number: np.zeros(len(stream.examples)) for number in self.bed.kept}
        entropies: dict[bool, list[float]] = {True: [], False: []}
        kept: list[float] = []
        alarms, resets, held = 0, 0, 0
        for step in run:
            places = list(run.batches[step.number].places)
            if step.round in rounds:
                rounds[step.round][places] = [score or 0.0 for score in step.scores(step.predicted)]
            if step.round == self.bed.rounds:
                for known, entropy in zip(step.known, step.entropies, strict=True):
                    entropies[known].append(entropy if entropy is not None else 0.0)
            if rates is not None:
                _learn_at(run, rates[step.number])
            update = run.update()
            assert update is not None
            kept.append(update.signs.kept)
            if (optimiser := getattr(run.adapter, "optimiser", None)) is not None:
                self.rates.append(optimiser.param_groups[0]["lr"])
            alarms, resets = alarms + bool(update.alarm), resets + bool(update.reset)
            if run.done == min(_SETTLED, len(run.batches)):
                gc.collect()
                held = living() - before
        return StreamCell(
            _domains([stream.examples[at] for at in scored]),
            _frozen(run, scored),
            {number: marks[scored] for number, marks in rounds.items()},
            self._clean(run),
            _unknown(run, entropies, stream),
            run.augmentation_cost,
            float(np.mean(kept)),
            alarms,
            resets,
            spent.seconds / max(len(kept), 1),
            held,
            {key: one for key, one in run.adapter.state().values.items() if is_number(one)},
            spent.beside,
        )

    def _clean(self, run: Adaptation) -> tuple[Marks, ...]:
        """Marks on the clean examples, frozen and adapted; none where the stream is these."""
        if self.bed.stream == "clean":
            return ()
        ours, theirs = run.look(_read(self.folder / "streams" / "clean"))
        return np.array(theirs), np.array(ours)


class _Spent:
    """Seconds of the processor that an adapter takes to predict and to learn, and nothing else of the run.

    Attributes:
        seconds: of all batches.
    """

    def __init__(self, run: Adaptation) -> None:
        self.seconds = 0.0
        self._frozen, self._beside = run._frozen_model, [0.0, 0.0]
        predict, update = self._counted(run.adapter.predict), self._counted(run.adapter.update)

        def predicted(batch: StreamBatch) -> Any:
            found = predict(batch)
            if batch.number % _BESIDE == 0:
                began = time.process_time()
                self._frozen.predictions(batch.inputs)
                self._beside = [self._beside[0] + time.process_time() - began, self._beside[1] + 1]
            return found

        run.adapter.predict = predicted  # type: ignore[method-assign]
        run.adapter.update = update  # type: ignore[method-assign]

    @property
    def beside(self) -> float:
        """Seconds in which the frozen model predicts a batch, between the adapter's own."""
        return self._beside[0] / max(self._beside[1], 1)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            began = time.process_time()
            try:
                return call(*given)
            finally:
                self.seconds += time.process_time() - began

        return counted


def living() -> int:
    """Bytes of all tensors that live, each storage once."""
    found = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def swapped(stream: Stream) -> Stream:
    """A stream twice, as it is and with the labels of each two classes exchanged: 0 is called 1, and 1 is called 0."""

    def other(one: StreamExample) -> StreamExample:
        digit = int(one.answer or 0)
        return replace(one, key=f"swapped-{one.key}", answer=str(digit + (-1 if digit % 2 else 1)), domain="swapped")

    examples = (*stream.examples, *(other(one) for one in stream.examples))
    return replace(stream, examples=examples, order="shuffled")


def _learn_at(run: Adaptation, rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in run.adapter.optimiser.param_groups:  # type: ignore[attr-defined]
        group["lr"] = rate


def _domains(examples: list[StreamExample]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in examples:
        found[one.domain] = found.get(one.domain, 0) + 1
    return found


def _frozen(run: Adaptation, scored: list[int]) -> Marks:
    """Whether the frozen model is right, of the scored examples."""
    answers = [run.model.labels[at] for at in run._frozen.argmax(-1).tolist()]
    return np.array([float(answers[at] == run.stream.examples[at].answer) for at in scored])


def _unknown(run: Adaptation, entropies: dict[bool, list[float]], stream: Stream) -> tuple[float, float] | None:
    """AUROC of the entropy in the last round, frozen and adapted; None where all classes are known."""
    if not entropies[False] or not entropies[True]:
        return None
    from genepool.adaptation.stream_model import entropy_of

    frozen = entropy_of(run._frozen).tolist()
    theirs: Iterator[list[float]] = (
        [frozen[at] for at, one in enumerate(stream.examples) if one.known is known] for known in (False, True)
    )
    return auroc(*theirs), auroc(entropies[False], entropies[True])
