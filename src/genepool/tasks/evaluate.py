"""Asks models the examples of tasks, one outcome per example, and keeps every outcome in the ledger.

What the ledger knows is not asked again, and a model all of whose outcomes are known is not even loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from genepool import progress
from genepool.errors import InputError
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding
from genepool.tasks.example import Example
from genepool.tasks.ledger import Ledger, Outcome
from genepool.tasks.metrics import find_metric
from genepool.tasks.models import Model, Named, Source, open_model
from genepool.tasks.table import Cell, OutcomeTable
from genepool.tasks.task import Task
from genepool.threads import torch_threads

# Examples that are asked between two commits: what a kill loses of a large task, at most. Fixed, since which examples
# stand together in a batch can show in the last bits of a likelihood.
_COMMITTED = 2048


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
    allow_pickle: bool = False,
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
        device: torch's name of the device.
        allow_pickle: names may lead to PyTorch's .bin and .pt files, which are loaded with `weights_only`.

    Raises:
        InputError: a model or task cannot be used.
    """
    if not models:
        raise InputError("no models to evaluate", fix="Name at least one")
    if not tasks:
        raise InputError("no tasks to evaluate on", fix="Name at least one")
    if twice := next((task.name for i, task in enumerate(tasks) if task.name in {t.name for t in tasks[:i]}), None):
        raise InputError(f"two tasks are called '{twice}'", fix="Give each its own name")
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} examples", fix="Give at least 1")
    if seed is not None:
        tasks = [_reseeded(task, seed) for task in tasks]
    examples = {task.name: list(task.examples(split))[:limit] for task in tasks}
    sources = [open_model(model, allow_pickle=allow_pickle) for model in models]
    labels = unique_names(list(names) if names is not None else [source.name for source in sources])
    cells: dict[tuple[str, str], Cell] = {}
    fingerprints: dict[str, str] = {}
    total = len(sources) * sum(map(len, examples.values()))
    with progress.bar("evaluating", total, "examples") as bar, torch_threads(threads):
        for label, source in zip(labels, sources, strict=True):
            fingerprints[label] = source.fingerprint
            asked = _Asked(source, label, device)
            for task in tasks:
                bar.note(f"{label}: {task.name}")
                cells[label, task.name] = _evaluate_one(
                    asked, fingerprints[label], task, examples[task.name], ledger, batch_size, keep_outputs, bar
                )
    return OutcomeTable(cells, examples, fingerprints, split)


class _Asked:
    """A model that is loaded only when it is asked something."""

    def __init__(self, source: Source, name: str, device: str) -> None:
        self._source, self.name, self._device = source, name, device
        self._loaded: Model | None = None

    def model(self) -> Model:
        if self._loaded is None:
            with progress.bar(f"loading {self.name}"):
                self._loaded = self._source.load(self._device)
        return self._loaded


def _evaluate_one(
    asked: _Asked,
    fingerprint: str,
    task: Task,
    examples: Sequence[Example],
    ledger: Ledger,
    batch_size: int,
    keep_outputs: bool,
    bar: progress.Bar,
) -> Cell:
    known = ledger.find(fingerprint, task.asking, [example.key for example in examples])
    written = find_metric(task.settings.metric).needs == "text" and task.asker is None
    if keep_outputs and written:
        known = {key: outcome for key, outcome in known.items() if outcome.output is not None}
    # Two examples with the same content are one evaluation.
    firsts: dict[str, Example] = {}
    for example in examples:
        firsts.setdefault(example.key, example)
    open_examples = [example for key, example in firsts.items() if key not in known]
    bar.advance(len(examples) - len(open_examples))
    fresh: dict[str, Outcome] = {}
    for start in range(0, len(open_examples), _COMMITTED):
        block = open_examples[start : start + _COMMITTED]
        outcomes = _ask(asked.model(), task, block, batch_size, keep_outputs)
        new = list(zip(block, outcomes, strict=True))
        ledger.record(fingerprint, asked.name, task.name, task.asking, [(e.key, e.id, o) for e, o in new])
        fresh.update((example.key, outcome) for example, outcome in new)
        bar.advance(len(block))
    return Cell(tuple(fresh.get(e.key) or known[e.key] for e in examples), len(examples) - len(fresh))


def _ask(model: Model, task: Task, examples: Sequence[Example], batch_size: int, keep_outputs: bool) -> list[Outcome]:
    if task.asker is not None:
        return list(task.asker(model, examples, batch_size))
    if find_metric(task.settings.metric).needs == "choices":
        return _choose(model, task, examples, batch_size)
    return _write(model, task, examples, batch_size, keep_outputs)


def _choose(model: Model, task: Task, examples: Sequence[Example], batch_size: int) -> list[Outcome]:
    """Multiple choice: the choice whose continuation is likeliest; the sum of its tokens' log-likelihoods decides."""
    prompts, choices = [], []
    for example in examples:
        prompt = task.prompt_for(example, model)
        for choice in example.choices:
            prompts.append(prompt)
            choices.append(choice)
    scored = iter(model.loglikelihoods(prompts, choices, batch_size))
    return [_chosen(example, [next(scored).logprob for _ in example.choices]) for example in examples]


def _chosen(example: Example, logprobs: Sequence[float]) -> Outcome:
    # Weights that overflow give likelihoods that are no numbers: then no choice is taken, not the first.
    known = [(logprob, i) for i, logprob in enumerate(logprobs) if math.isfinite(logprob)]
    if not known:
        return Outcome(0.0)
    best, place = max(known, key=lambda pair: pair[0])
    choice = example.choices[place]
    confidence = 1 / sum(math.exp(logprob - best) for logprob, _ in known)
    return Outcome(float(choice in example.answers), choice, {"logprob": best, "confidence": confidence})


def _write(model: Model, task: Task, examples: Sequence[Example], batch_size: int, keep_outputs: bool) -> list[Outcome]:
    ask = task.settings
    metric = find_metric(ask.metric)
    assert metric.judge is not None
    decoding = Decoding(ask.max_new_tokens, tuple(ask.stop), ask.temperature, ask.top_p, ask.seed)
    prompts = [task.prompt_for(example, model) for example in examples]
    outcomes: dict[int, Outcome] = {}
    details: dict[int, dict[str, float]] = {}
    if metric.equality and ask.temperature == 0:
        single = [i for i, example in enumerate(examples) if len(example.answers) == 1]
        forced = model.forced_answers(
            [prompts[i] for i in single], [examples[i].answer for i in single], decoding, ask.strip, batch_size
        )
        for i, result in zip(single, forced, strict=True):
            details[i] = {
                "logprob": result.logprob,
                "token_accuracy": result.token_accuracy,
                "tokens": float(result.tokens),
            }
            if result.matches is True:
                # What it writes is the answer, so the answer's likelihood is that of what it writes.
                confidence = math.exp(min(result.logprob, 0.0))
                outcomes[i] = Outcome(1.0, examples[i].answer, {**details[i], "confidence": confidence})
            elif result.matches is False and not keep_outputs:
                outcomes[i] = Outcome(0.0, None, details[i])
    rest = [i for i in range(len(examples)) if i not in outcomes]
    if rest:
        written = model.write([prompts[i] for i in rest], [examples[i].key for i in rest], decoding, batch_size)
        for i, one in zip(rest, written, strict=True):
            score = metric.judge(one.text, examples[i], ask.strip)
            sure = {"confidence": math.exp(min(one.logprob, 0.0))} if math.isfinite(one.logprob) else {}
            outcomes[i] = Outcome(score, one.text, {**details.get(i, {}), **sure})
    return [outcomes[i] for i in range(len(examples))]


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
