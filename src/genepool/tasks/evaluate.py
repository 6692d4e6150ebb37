"""Asks models the examples of tasks, one outcome per example, and keeps every outcome in the ledger.

What the ledger knows is not asked again, and a model all of whose outcomes are known is not even loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from genepool import progress
from genepool.devices import check_device, check_dtype
from genepool.errors import InputError
from genepool.tasks.answering import SharedAsking, answer, answer_together, check_fits, check_labels, is_answered
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.example import Example
from genepool.tasks.ledger import Ledger, Outcome
from genepool.tasks.metrics import find_metric
from genepool.tasks.models import Model, Named, Source, open_model
from genepool.tasks.table import OutcomeTable, TaskOutcomes
from genepool.tasks.task import Task
from genepool.threads import torch_threads

# Examples that are asked between two commits: what a kill loses of a large task, at most. Fixed, since which examples
# stand together in a batch can show in the last bits of a likelihood.
_COMMITTED = 2048


@dataclass(frozen=True)
class AskedTogether:
    """Models that share a network.

    Attributes:
        members: of each, its place among the models, and its number in the network.
        load: loads the network.
    """

    members: tuple[tuple[int, int], ...]
    load: Callable[[], SharedAsking]


#: Finds models that share a network: the models, the device and the type they compute in -> groups.
FindShared = Callable[[Sequence[Source], str, str], list[AskedTogether]]


def evaluate(
    models: Sequence[Named],
    tasks: Sequence[Task],
    *,
    split: str = "test",
    ledger: Ledger,
    limit: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    batch_size: int = DEFAULT_BATCH,
    keep_outputs: bool = True,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    allow_pickle: bool = False,
    shared: FindShared | None = None,
) -> OutcomeTable:
    """Every model on every task.

    Args:
        models: what to ask: names to open, weights, sources, or models already in memory.
        tasks: what to ask them.
        split: which examples.
        ledger: where outcomes come from and go to.
        limit: only the first so many examples of each task.
        seed: replaces the seed of tasks that draw tokens.
        threads: torch's threads while computing; as they are when None. With the batch size, part of what makes a
            result repeatable to the last bit.
        batch_size: examples per batch.
        keep_outputs: also keep what models write where a score can be told without writing. Outcomes that are known
            but lack their output are then computed again.
        names: what to call the models in the table; their own names when None.
        device: torch's name of the device, for models that are not in memory yet.
        dtype: what the models compute in, those in memory too. Outcomes in another type than float32 are kept apart.
        allow_pickle: names may lead to PyTorch's .bin and .pt files, which are loaded with `weights_only`.
        shared: finds models that share a network, which are asked in common batches. Their likelihoods may differ in
            the last digits from those of a model that is asked by itself. None: every model is.

    Raises:
        InputError: a model or task cannot be used, a model cannot be asked a task, or there is no such device or type.
    """
    if not models:
        raise InputError("no model is named", fix="Name at least one")
    if not tasks:
        raise InputError("no task is named", fix="Name at least one")
    if twice := next((task.name for i, task in enumerate(tasks) if task.name in {t.name for t in tasks[:i]}), None):
        raise InputError(f"two tasks are called '{twice}'", fix="Give each its own name")
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}", fix="Give at least 1")
    check_dtype(dtype)
    check_device(device)
    if seed is not None:
        tasks = [_reseeded(task, seed) for task in tasks]
    examples = {task.name: list(task.examples(split))[:limit] for task in tasks}
    sources = [open_model(model, allow_pickle=allow_pickle) for model in models]
    labels = unique_names(list(names) if names is not None else [source.name for source in sources])
    for source in sources:
        for task in tasks:
            check_fits(task, source.kind, source.name)
    cells: dict[tuple[str, str], TaskOutcomes] = {}
    fingerprints = {label: source.fingerprint for label, source in zip(labels, sources, strict=True)}
    asked = [_Asked(source, label, device, dtype) for source, label in zip(sources, labels, strict=True)]
    total = len(sources) * sum(map(len, examples.values()))
    with progress.bar("evaluating", total, "examples") as bar, torch_threads(threads):

        def opened(place: int, task: Task) -> _Cell:
            label = labels[place]
            return _Cell(asked[place], fingerprints[label], task, examples[task.name], ledger, keep_outputs, bar)

        for group in [] if shared is None else shared(sources, device, dtype):
            load = cache(group.load)
            for task in [task for task in tasks if is_answered(task)]:
                bar.note(f"{len(group.members)} models: {task.name}")
                own = [(number, opened(place, task)) for place, number in group.members]
                _ask_together(load, own, batch_size)
                for (place, _), (_, cell) in zip(group.members, own, strict=True):
                    cells[labels[place], task.name] = cell.outcomes()
        for place, label in enumerate(labels):
            for task in tasks:
                if (label, task.name) not in cells:
                    bar.note(f"{label}: {task.name}")
                    cells[label, task.name] = _ask_alone(opened(place, task), batch_size)
            asked[place].leave()
    return OutcomeTable(cells, examples, fingerprints, split)


def tell_spoiled(model: Model, name: str) -> None:
    """Says that a model holds NaN or infinity: it answers all the same, and its scores mean nothing."""
    from genepool.tasks.network import Network

    if isinstance(model, Network) and (tensor := model.spoiled) is not None:
        warn_of_spoiled(name, tensor)


def warn_of_spoiled(name: str, tensor: str) -> None:
    """The words of `tell_spoiled`, of a model whose spoiled tensor is known."""
    progress.message(
        f"warning: {name}:{tensor} holds NaN or infinity, so what this model answers means nothing; "
        "`genepool inspect` shows what else does"
    )


class _Asked:
    """A model that is loaded only when it is asked something."""

    def __init__(self, source: Source, name: str, device: str, dtype: str) -> None:
        self._source, self.name, self._device, self._dtype = source, name, device, dtype
        self._loaded: Model | None = None
        self._told = False

    def model(self) -> Model:
        if self._loaded is None:
            with progress.bar(f"loading {self.name}"):
                self._loaded = self._source.load(self._device, self._dtype)
            tell_spoiled(self._loaded, self.name)
        return self._loaded

    def tell_spoiled(self, shared: SharedAsking, number: int) -> None:
        """As the function, once, of a model that is asked in a network with others.

        Args:
            shared: the network.
            number: of this model in it.
        """
        if not self._told and (tensor := shared.spoiled(number)) is not None:
            warn_of_spoiled(self.name, tensor)
        self._told = True

    def leave(self) -> None:
        """Nothing more is asked: the memory is another's."""
        self._loaded = None

    def asking(self, task: Task) -> str:
        """What the ledger knows the asking by: the task's digest, and with another type than float32 that type."""
        if self._dtype == "float32":
            return task.asking
        return hashlib.sha256(f"{task.asking}\x1f{self._dtype}".encode()).hexdigest()


class _Cell:
    """A model on a task: what the ledger knows, what is open, and what is found."""

    def __init__(
        self,
        asked: _Asked,
        fingerprint: str,
        task: Task,
        examples: Sequence[Example],
        ledger: Ledger,
        keep_outputs: bool,
        bar: progress.Bar,
    ) -> None:
        self.asked, self.task, self.examples, self.keep_outputs = asked, task, examples, keep_outputs
        self._fingerprint, self._ledger, self._bar = fingerprint, ledger, bar
        self._asking = asked.asking(task)
        known = ledger.find(fingerprint, self._asking, [example.key for example in examples])
        written = find_metric(task.settings.metric).needs == "text" and task.asker is None
        if keep_outputs and written:
            known = {key: outcome for key, outcome in known.items() if outcome.output is not None}
        self._known, self._fresh = known, dict[str, Outcome]()
        # Two examples with the same content are one evaluation.
        firsts: dict[str, Example] = {}
        for example in examples:
            firsts.setdefault(example.key, example)
        self.open = [example for key, example in firsts.items() if key not in known]
        bar.advance(len(examples) - len(self.open))

    def record(self, block: Sequence[Example], outcomes: Sequence[Outcome]) -> None:
        """Keeps the outcomes of some examples, in one commit."""
        new = list(zip(block, outcomes, strict=True))
        rows = [(e.key, e.id, outcome) for e, outcome in new]
        self._ledger.record(self._fingerprint, self.asked.name, self.task.name, self._asking, rows)
        self._fresh.update((example.key, outcome) for example, outcome in new)
        self._bar.advance(len(block))

    def outcomes(self) -> TaskOutcomes:
        """Of all examples."""
        found = tuple(self._fresh.get(e.key) or self._known[e.key] for e in self.examples)
        return TaskOutcomes(found, len(self.examples) - len(self._fresh))


def _ask_alone(cell: _Cell, batch_size: int) -> TaskOutcomes:
    if cell.open:
        check_labels(cell.task, cell.examples, cell.asked.model())
    for start in range(0, len(cell.open), _COMMITTED):
        block = cell.open[start : start + _COMMITTED]
        cell.record(block, answer(cell.asked.model(), cell.task, block, batch_size, cell.keep_outputs))
    return cell.outcomes()


def _ask_together(load: Callable[[], SharedAsking], cells: Sequence[tuple[int, _Cell]], batch_size: int) -> None:
    """Asks what is open, of all models at once; without anything open the network is not loaded."""
    task, longest = cells[0][1].task, max(len(cell.open) for _, cell in cells)
    if longest:
        check_labels(task, cells[0][1].examples, load().asked)
    for number, cell in cells:
        if cell.open:
            cell.asked.tell_spoiled(load(), number)
    for start in range(0, longest, _COMMITTED):
        blocks = [(number, cell, cell.open[start : start + _COMMITTED]) for number, cell in cells]
        asked = [(number, block) for number, _, block in blocks]
        found = answer_together(load(), task, asked, batch_size, cells[0][1].keep_outputs)
        for (_, cell, block), outcomes in zip(blocks, found, strict=True):
            cell.record(block, outcomes)


def _reseeded(task: Task, seed: int) -> Task:
    if task.settings.temperature == 0 or task.asker is not None:
        return task
    return Task(task.name, task.splits, task.settings.model_copy(update={"seed": seed}))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that were there before."""
    result: list[str] = []
    for name in names:
        label, number = name, 2
        while label in result:
            label, number = f"{name} ({number})", number + 1
        result.append(label)
    return result
