"""How examples are put to a model and judged: by writing, by likelihoods, by its classes, or by playing.

What a metric needs and what a kind of model can do meet here; `evaluate` keeps what comes back. What is asked is
yielded as an `Inquiry`, so that models which share a network can be asked in common batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from genepool.errors import InputError
from genepool.tasks.decoding import Decoding
from genepool.tasks.example import Example
from genepool.tasks.ledger import Outcome
from genepool.tasks.metrics import find_metric
from genepool.tasks.models import Model
from genepool.tasks.playing import episode_outcomes
from genepool.tasks.task import Task


@dataclass(frozen=True)
class Inquiry:
    """What a model is asked.

    Attributes:
        method: the method of `Model`.
        rows: its arguments that hold a value for each prompt, the prompts first.
        settings: its other arguments.
    """

    method: str
    rows: tuple[Sequence[str], ...]
    settings: tuple[Any, ...]

    def put(self, model: Model) -> list[Any]:
        """What a model answers to each prompt."""
        return list(getattr(model, self.method)(*self.rows, *self.settings))

    def put_some(self, model: Model, numbers: Sequence[int]) -> list[Any]:
        """What a model answers to the prompts of these numbers."""
        return Inquiry(self.method, tuple([row[i] for i in numbers] for row in self.rows), self.settings).put(model)


#: Asks one thing after the other, and ends in an outcome for each example.
Inquiries: TypeAlias = Generator[Inquiry, list[Any], list[Outcome]]


class SharedAsking(Protocol):
    """A network that several models share, each a number."""

    @property
    def asked(self) -> Model:
        """What prepares the prompts."""

    def spoiled(self, owner: int) -> str | None:
        """The name of a tensor of a model that holds NaN or infinity; None where there is none.

        Args:
            owner: the model.
        """

    def ask(self, owners: Sequence[int], ask: Callable[[Model, list[int]], Sequence[Any]]) -> list[Any]:
        """Answers rows, each by its own model.

        Args:
            owners: the model of each row.
            ask: asks a model the rows of these numbers.
        """


# Different answers of a task that are held against a classifier's labels before it is refused.
_HELD_AGAINST = 200
# Labels that an error names.
_NAMED = 5


def check_fits(task: Task, kind: type[Model], name: str) -> None:
    """Refuses a task that a kind of model cannot be asked, before anything is loaded.

    Args:
        task: the task.
        kind: the kind of model.
        name: of the model, for errors.

    Raises:
        InputError: the model reads something else than the task shows, or can do nothing that its metric needs.
    """
    if task.asker is not None:
        return
    task.check_reader(kind, name)
    needs = find_metric(task.settings.metric).needs
    asked = {"text": "text", "episode": "episodes"}.get(needs, "likelihoods")
    classes = "classes" in kind.can and needs in ("text", "choices")
    if not classes and asked not in kind.can:
        raise InputError(
            f"the metric {task.settings.metric} of the task '{task.name}' needs {needs}, and {kind.kind} has none",
            where=name,
            fix=f"Use it for {kind.offers()}",
        )


def check_labels(task: Task, examples: Sequence[Example], model: Model) -> None:
    """Refuses a task whose answers are none of a classifier's labels, so that every outcome would be wrong.

    Raises:
        InputError: naming some of the labels.
    """
    if task.asker is not None or "classes" not in model.can:
        return
    metric = find_metric(task.settings.metric)
    if metric.needs == "episode":
        return
    if metric.needs == "choices":
        for example in examples:
            if missing := [choice for choice in example.choices if choice not in model.labels]:
                raise _no_label(f"the choice {missing[0]!r} is none of its classes", task, example, model)
        return
    different = {example.answers: example for example in examples}
    for example in list(different.values())[:_HELD_AGAINST]:
        if any(metric.score(label, example, task.settings.strip) for label in model.labels):
            return
    first = examples[0]
    raise _no_label(
        f"{model.kind} answers with one of its classes, and no answer of the task is one (got {first.answer[:40]!r})",
        task,
        first,
        model,
    )


def _no_label(what: str, task: Task, example: Example, model: Model) -> InputError:
    more = "..." if len(model.labels) > _NAMED else ""
    return InputError(
        what,
        where=example.place(task.name),
        fix=f"The classes of {model.name}: {', '.join(model.labels[:_NAMED])}{more}",
    )


def answer(model: Model, task: Task, examples: Sequence[Example], batch_size: int, keep_outputs: bool) -> list[Outcome]:
    """One outcome per example, in their order.

    Args:
        model: who is asked.
        task: how they are asked and judged.
        examples: what is asked.
        batch_size: examples per batch.
        keep_outputs: also keep what a model writes where its score can be told without writing.
    """
    if task.asker is not None:
        return list(task.asker(model, examples, batch_size))
    if find_metric(task.settings.metric).needs == "episode":
        return episode_outcomes(model, task, examples, batch_size)
    asking = _inquiries(model, task, examples, batch_size, keep_outputs)
    try:
        inquiry = next(asking)
        while True:
            inquiry = asking.send(inquiry.put(model))
    except StopIteration as end:
        outcomes: list[Outcome] = end.value
        return outcomes


def is_answered(task: Task) -> bool:
    """Whether a model is asked prompts, and does not play or is asked by the task itself."""
    return task.asker is None and find_metric(task.settings.metric).needs != "episode"


def answer_together(
    shared: SharedAsking,
    task: Task,
    examples: Sequence[tuple[int, Sequence[Example]]],
    batch_size: int,
    keep_outputs: bool,
) -> list[list[Outcome]]:
    """As `answer`, of several models that share a network: a batch may hold rows of all of them.

    Args:
        shared: the network.
        task: how they are asked and judged; see `is_answered`.
        examples: a model's number, and what it is asked.
        batch_size, keep_outputs: as for `answer`.

    Returns:
        For each of `examples` its outcomes.
    """
    askings = [_inquiries(shared.asked, task, own, batch_size, keep_outputs) for _, own in examples]
    found: dict[int, list[Outcome]] = {}
    waiting: dict[int, Inquiry] = {}

    def go_on(place: int, answers: list[Any] | None) -> None:
        try:
            # A generator that has not begun takes None.
            waiting[place] = askings[place].send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            found[place] = end.value

    for place in range(len(askings)):
        go_on(place, None)
    while waiting:
        first = next(iter(waiting.values()))
        alike = {i: one for i, one in waiting.items() if (one.method, one.settings) == (first.method, first.settings)}
        waiting = {i: one for i, one in waiting.items() if i not in alike}
        joined = Inquiry(
            first.method,
            tuple([value for one in alike.values() for value in one.rows[at]] for at in range(len(first.rows))),
            first.settings,
        )
        owners = [examples[place][0] for place, one in alike.items() for _ in one.rows[0]]
        answers = iter(shared.ask(owners, joined.put_some))
        for place, one in alike.items():
            go_on(place, [next(answers) for _ in one.rows[0]])
    return [found[place] for place in range(len(askings))]


def _inquiries(model: Model, task: Task, examples: Sequence[Example], batch_size: int, keep_outputs: bool) -> Inquiries:
    if "classes" in model.can:
        return _classify(model, task, examples, batch_size)
    if find_metric(task.settings.metric).needs == "choices":
        return _choose(model, task, examples, batch_size)
    if find_metric(task.settings.metric).needs == "likelihood":
        return _read(model, task, examples, batch_size)
    return _write(model, task, examples, batch_size, keep_outputs)


# ---------------------------------------------------------------------- classes


def _classify(model: Model, task: Task, examples: Sequence[Example], batch_size: int) -> Inquiries:
    """The class with the highest score: of all classes, or of the example's choices."""
    prompts = [task.prompt_for(example, model) for example in examples]
    found = yield Inquiry("class_scores", (prompts,), (batch_size,))
    scores = [row.tolist() for row in found]
    places = {label: place for place, label in enumerate(model.labels)}
    if find_metric(task.settings.metric).needs == "choices":
        rows = zip(examples, scores, strict=True)
        return [_chosen(example, [row[places[choice]] for choice in example.choices]) for example, row in rows]
    return [_labelled(task, example, row, places) for example, row in zip(examples, scores, strict=True)]


def _labelled(task: Task, example: Example, row: Sequence[float], places: dict[str, int]) -> Outcome:
    metric = find_metric(task.settings.metric)
    # Weights that overflow give scores that are no numbers: then there is no answer, not the first class.
    if not all(map(math.isfinite, row)):
        return Outcome(0.0)
    best = max(range(len(row)), key=row.__getitem__)
    label = list(places)[best]
    details = {"confidence": math.exp(min(row[best], 0.0))}
    if example.answer in places:
        details = {"logprob": row[places[example.answer]], **details}
    return Outcome(metric.score(label, example, task.settings.strip), label, details)


# ---------------------------------------------------------------------- texts


def _choose(model: Model, task: Task, examples: Sequence[Example], batch_size: int) -> Inquiries:
    """Multiple choice: the choice whose continuation is likeliest; the sum of its tokens' log-likelihoods decides."""
    prompts, choices = [], []
    for example in examples:
        prompt = task.prompt_for(example, model)
        for choice in example.choices:
            prompts.append(prompt)
            choices.append(choice)
    scored = iter((yield Inquiry("loglikelihoods", (prompts, choices), (batch_size,))))
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


def _read(model: Model, task: Task, examples: Sequence[Example], batch_size: int) -> Inquiries:
    """How likely each answer is: the geometric mean over its tokens, which is 1 over its perplexity."""
    prompts = [task.prompt_for(example, model) for example in examples]
    answers = [example.answer for example in examples]
    found = yield Inquiry("loglikelihoods", (prompts, answers), (batch_size,))
    outcomes = []
    for one in found:
        # Weights that overflow give likelihoods that are no numbers: then nothing is likely.
        if not math.isfinite(one.logprob) or not one.tokens:
            outcomes.append(Outcome(0.0))
            continue
        details = {"logprob": one.logprob, "tokens": float(one.tokens)}
        outcomes.append(Outcome(math.exp(min(one.logprob / one.tokens, 0.0)), None, details))
    return outcomes


def _write(model: Model, task: Task, examples: Sequence[Example], batch_size: int, keep_outputs: bool) -> Inquiries:
    ask = task.settings
    metric = find_metric(ask.metric)
    decoding = Decoding(ask.max_new_tokens, tuple(ask.stop), ask.temperature, ask.top_p, ask.seed)
    prompts = [task.prompt_for(example, model) for example in examples]
    outcomes: dict[int, Outcome] = {}
    details: dict[int, dict[str, float]] = {}
    if metric.equality and ask.temperature == 0:
        single = [i for i, example in enumerate(examples) if len(example.answers) == 1]
        rows = [prompts[i] for i in single], [examples[i].answer for i in single]
        forced = yield Inquiry("forced_answers", rows, (decoding, ask.strip, batch_size))
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
        keyed = [prompts[i] for i in rest], [examples[i].key for i in rest]
        written = yield Inquiry("write", keyed, (decoding, batch_size))
        for i, one in zip(rest, written, strict=True):
            score = metric.score(one.text, examples[i], ask.strip)
            sure = {"confidence": math.exp(min(one.logprob, 0.0))} if math.isfinite(one.logprob) else {}
            outcomes[i] = Outcome(score, one.text, {**details.get(i, {}), **sure})
    return [outcomes[i] for i in range(len(examples))]
