"""What a training learns from: the examples of its tasks, in an order that belongs to the seed.

A task folder brings its own splits. A lone file of examples is split by the content of each example, so that what is
tested was never trained on, whatever the order of the lines. Uses tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genepool import progress
from genepool.errors import InputError
from genepool.seeding import derive, numpy_generator
from genepool.tasks import Example, Task, load_tasks
from genepool.tasks.metrics import find_metric
from genepool.training.generating import GeneratingSampler
from genepool.training.samplers import Arms, ExampleSampler, PlaceSampler, Sampler

if TYPE_CHECKING:
    from genepool.training.journal import ExampleRow

#: Of a lone file: one example in ten is for validation, one in ten for testing.
_TENTHS = ("valid", "test")


@dataclass(frozen=True)
class TrainingExample:
    """An example and the task it is asked by.

    Attributes:
        task: the task.
        example: the example; its first answer is what is learned from.
        good: whether that answer is an accepted one; false for a rejected one, which labels make something to unlearn.
    """

    task: Task
    example: Example
    good: bool = True


class TrainingExamples:
    """The training and validation examples of a few tasks.

    Args:
        tasks: what is taught, each with a training split.
        seed: decides the order.
        valid: validation examples of each task, at most.
        pairs: each example is a pair of an accepted and a rejected answer.
        labels: each example is one answer, accepted or rejected.
        values: each example is one answer, with a label that is a number or true or false.
        shares: weights of the tasks, by name, in the draws of each step; None: shuffled rounds of all examples.
        portions: the part of a task's training examples that is used, by name; the whole of the others.

    Attributes:
        tasks: the tasks.
        train: every training example; tasks are mixed in proportion to their examples.
        valid: the validation examples.
        equal: pairs that are left out because both of their answers are alike.

    Raises:
        InputError: a task has nothing to train on, or answers that cannot be taught.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        seed: int,
        valid: int,
        pairs: bool = False,
        labels: bool = False,
        values: bool = False,
        shares: Mapping[str, float] | None = None,
        portions: Mapping[str, float] | None = None,
    ) -> None:
        self.tasks, self._seed, self._pairs, self._labels, self.equal = tuple(tasks), seed, pairs, labels, 0
        self._values = values
        self._shares = shares
        self._sampler: Sampler | None = None
        self._among: Sequence[int] | None = None
        self._make: Callable[[Arms], Sampler] | None = None
        self._last: dict[tuple[int, int], np.ndarray] = {}
        self.train: list[TrainingExample] = []
        self.valid: list[TrainingExample] = []
        for task in tasks:
            _check_teachable(task)
            if not values:
                _check_unvalued(task)
            for example in _portion(task, (portions or {}).get(task.name, 1.0), seed):
                self.train += self._lessons(task, example)
            for example in task.splits.get("valid", ())[:valid]:
                whole = pairs or labels or values
                self.valid += self._lessons(task, example) if whole else [TrainingExample(task, example)]
        if self.equal:
            progress.message(f"{self.equal:,} pairs are left out: both of their answers are alike")
        if not self.train:
            raise InputError(
                "both answers of every pair are alike, so there is no preference",
                where=tasks[0].name,
                fix="Give pairs of answers that differ",
            )
        if empty := next((name for name, own in self._by_task.items() if not own and (shares or {}).get(name)), None):
            raise InputError("has a share and nothing to learn from", where=empty, fix="Give it a share of 0")
        if values and len({label_of(lesson) for lesson in self.train}) == 1:
            raise InputError(
                "all labels are alike, so nothing tells good steps from bad ones",
                where=tasks[0].name,
                fix='Write {"prompt": "...", "completion": "...", "label": 0.3}, or use another --objective',
            )
        if labels and (both := _labelled_both_ways(self.train)):
            progress.message(f"{both:,} answers are labelled both accepted and rejected, and are learned as both")
        if labels and all(lesson.good for lesson in self.train):
            raise InputError(
                "no answer is labelled false or rejected, so labels say nothing",
                where=tasks[0].name,
                fix='Write {"prompt": "...", "completion": "...", "label": false}, or use another --objective',
            )

    def _lessons(self, task: Task, example: Example) -> list[TrainingExample]:
        """What is learned from an example: its turns, its pairs, or its labelled answers."""
        if self._labels or (self._values and example.value is None):
            return labelled_answers(task, example)
        if not self._pairs:
            return [TrainingExample(task, one) for one in turns_of(example)]
        found = pairs_of(task, example)
        self.equal += sum(one.answer == one.rejected[0] for one in found)
        return [TrainingExample(task, one) for one in found if one.answer != one.rejected[0]]

    def at(self, step: int, size: int) -> list[TrainingExample]:
        """The lessons of one step, counted from 0.

        The next `size` of an endless row of shuffled rounds; or, where tasks have shares, draws of (seed, step).
        """
        sampler = self._sampler
        if isinstance(sampler, ExampleSampler):
            if sampler.values is None:
                return self._in_rounds(step, size, self._among)
            return [self.train[place] for place in sampler.places(step, size).tolist()]
        if isinstance(sampler, PlaceSampler):
            return [self.train[place] for place in self._said(sampler.places, step, size).tolist()]
        if isinstance(sampler, GeneratingSampler):
            return self._made(sampler, step, size)
        if sampler is not None:
            return self._sampled(sampler, step, size)
        if self._shares is not None:
            return self._drawn(step, size, self._shares)
        return self._in_rounds(step, size)

    def of_each(self, step: int, size: int, *, aligned: bool = False) -> list[list[TrainingExample]]:
        """As many lessons of every task for one step, counted from 0: the next `size` of its own shuffled rounds.

        Args:
            step, size: as for `at`.
            aligned: the same numbers of all tasks, so that their n-th training examples come together.

        Raises:
            InputError: a task has nothing to learn from; or with `aligned`, another number of examples than others.
        """
        counts = {name: len(own) for name, own in self._by_task.items()}
        first, *others = counts
        if other := next((name for name in others if counts[name] != counts[first]), None) if aligned else None:
            raise InputError(
                f"has {counts[other]} training examples and {first} has {counts[first]}, so their numbers do not match",
                where=other,
                fix="Give all tasks the same examples in the same order, or set aligned=false",
            )
        if empty := next((name for name, count in counts.items() if not count), None):
            raise InputError("has nothing to learn from", where=empty, fix="Leave it out")
        found = []
        for name, own in self._by_task.items():
            seed, count = self._seed if aligned else derive(self._seed, "own order", name), len(own)
            places = range(step * size, (step + 1) * size)
            found.append([own[_round(seed, place // count, count)[place % count]] for place in places])
        return found

    def _in_rounds(self, step: int, size: int, among: Sequence[int] | None = None) -> list[TrainingExample]:
        own = self.train if among is None else [self.train[place] for place in among]
        count = len(own)
        places = range(step * size, (step + 1) * size)
        return [own[_round(self._seed, place // count, count)[place % count]] for place in places]

    def _made(self, sampler: GeneratingSampler, step: int, size: int) -> list[TrainingExample]:
        """What a sampler had made, and its part of the data; the data alone before it had anything made."""
        if not sampler.rounds:
            return self._in_rounds(step, size)
        tasks = {task.name: task for task in self.tasks}
        found = [TrainingExample(tasks[one.task], one.example) for one in sampler.chosen(step, size)]
        return found + self._in_rounds(step, size - len(found))

    @property
    def generating(self) -> GeneratingSampler | None:
        """The sampler that has examples made; None where there is none."""
        return self._sampler if isinstance(self._sampler, GeneratingSampler) else None

    @property
    def sampler(self) -> Sampler | None:
        """What says what a step takes; None where nothing does."""
        return self._sampler

    @property
    def unscored(self) -> ExampleSampler | None:
        """The sampler of single examples that has no scores of them yet; None where there is none."""
        sampler = self._sampler
        return sampler if isinstance(sampler, ExampleSampler) and sampler.values is None else None

    @contextmanager
    def among(self, places: Sequence[int] | None) -> Iterator[None]:
        """Inside, the shuffled rounds before there are scores are of these training examples; None: of all."""
        self._among = places
        try:
            yield
        finally:
            self._among = None

    def sampled_by(self, make: Callable[[Arms], Sampler]) -> None:
        """From now on a sampler says how many examples of a step are of each task, or which ones.

        Args:
            make: makes it; called for every session, which observes the record anew.

        Raises:
            InputError: a task has nothing to learn from, or the options do not fit the tasks.
        """
        self._make = make
        self.restart()

    def restart(self) -> None:
        """Forgets what was observed."""
        if self._make is None:
            return
        sizes = tuple(len(self._by_task[task.name]) for task in self.tasks)
        names = tuple(task.name for task in self.tasks)
        arms = Arms(names, sizes, self._seed, [lesson.example for lesson in self.train])
        if empty := next((name for name, count in zip(arms.names, sizes, strict=True) if not count), None):
            raise InputError("has nothing to learn from, so no sampler can draw it", where=empty, fix="Leave it out")
        self._sampler, self._last = self._make(arms), {}

    def observe(self, step: int, rows: Sequence[ExampleRow]) -> None:
        """Lets the sampler, where there is one, see what a step, counted from 0, showed of its examples."""
        if self._sampler is not None:
            self._sampler.observe_rows(step, rows)

    def _sampled(self, sampler: Sampler, step: int, size: int) -> list[TrainingExample]:
        counts = self._said(sampler.counts, step, size)
        return self._chosen(counts, numpy_generator(self._seed, "sampled", step))

    def _said(self, asked: Callable[[int, int], np.ndarray], step: int, size: int) -> np.ndarray:
        """What a sampler says of a step; asked again after it observed the step, the same."""
        if (step, size) not in self._last:
            self._last = {(step, size): asked(step, size)}
        return self._last[step, size]

    def _drawn(self, step: int, size: int, shares: Mapping[str, float]) -> list[TrainingExample]:
        generator = numpy_generator(self._seed, "shares", step)
        weights = np.array([shares[task.name] for task in self.tasks], dtype=float)
        return self._chosen(generator.multinomial(size, weights / weights.sum()), generator)

    def _chosen(self, counts: np.ndarray, generator: np.random.Generator) -> list[TrainingExample]:
        """So many lessons of each task, drawn without repetition where there are enough."""
        found: list[TrainingExample] = []
        for task, count in zip(self.tasks, counts.tolist(), strict=True):
            own = self._by_task[task.name]
            # Of a task with fewer examples than were drawn, some come twice.
            found += [own[int(place)] for place in generator.choice(len(own), count, replace=count > len(own))]
        return found

    @cached_property
    def _by_task(self) -> dict[str, list[TrainingExample]]:
        found: dict[str, list[TrainingExample]] = {task.name: [] for task in self.tasks}
        for lesson in self.train:
            found[lesson.task.name].append(lesson)
        return found

    def digest(self) -> str:
        """SHA-256, hex, of everything that decides what is learned from: tasks, examples and their order."""
        total = hashlib.sha256(f"{derive(self._seed, 'order')}\x1f{len(self.train)}".encode())
        for lesson in (*self.train, *self.valid):
            total.update(f"\x1f{lesson.task.asking}\x1f{lesson.example.key}".encode())
            # An answer has one key whatever its label says of it.
            total.update(b"" if lesson.good else b"\x1frejected")
        return total.hexdigest()


def label_of(lesson: TrainingExample) -> float:
    """How good the answer of a lesson is, from 0 to 1: 1 where it is an accepted one, and nothing more is known."""
    return float(lesson.good) if lesson.example.value is None else lesson.example.value


def _labelled_both_ways(lessons: Sequence[TrainingExample]) -> int:
    """How many answers to the same prompt are an accepted and a rejected one."""
    kinds: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for lesson in lessons:
        kinds[lesson.good].add((lesson.task.name, lesson.example.key))
    return len(kinds[True] & kinds[False])


def _portion(task: Task, part: float, seed: int) -> Sequence[Example]:
    """The part of a task's training examples that is used: one at least, in the order of the file."""
    examples = task.examples("train")
    if part == 1:
        return examples
    chosen = numpy_generator(seed, "portion", task.name).permutation(len(examples))[
        : max(1, round(part * len(examples)))
    ]
    return [examples[place] for place in sorted(chosen.tolist())]


@lru_cache(maxsize=4)
def _round(seed: int, number: int, count: int) -> np.ndarray:
    return numpy_generator(seed, "order", number).permutation(count)


def turns_of(example: Example) -> list[Example]:
    """An example as what is learned from it: of a conversation, everything that the assistant says after what is given.

    Each turn is learned after all that was said before it, so that the loss is on the assistant's words alone.
    """
    found: list[Example] = []
    for place, (role, text) in enumerate(example.messages):
        if role == "assistant" and place and place >= example.given:
            before = example.messages[:place]
            turn = replace(example, prompt=before[-1][1], answers=(text,), messages=before)
            found.append(replace(turn, id=f"{example.id}, turn {len(found) + 1}"))
    return [*found, example]


def pairs_of(task: Task, example: Example) -> list[Example]:
    """An example with one accepted and one rejected answer for each pair; the shorter list begins again at its end.

    Raises:
        InputError: it has no rejected answer.
    """
    if not example.rejected:
        raise InputError(
            "has no rejected answer, so there is no pair to learn from",
            where=example.place(task.name),
            fix='Write {"prompt": "...", "chosen": "...", "rejected": "..."}, or use another --objective',
        )
    count = max(len(example.answers), len(example.rejected))
    sides = list(zip(islice(cycle(example.answers), count), islice(cycle(example.rejected), count), strict=True))
    pairs = [replace(example, answers=(chosen,), rejected=(rejected,)) for chosen, rejected in sides]
    return pairs if count == 1 else [replace(one, id=f"{one.id}, pair {at}") for at, one in enumerate(pairs, 1)]


def labelled_answers(task: Task, example: Example) -> list[TrainingExample]:
    """Every accepted answer of an example, then every rejected one, each as an example of its own."""
    sides = [(answer, True) for answer in example.answers] + [(answer, False) for answer in example.rejected]
    found = []
    for number, (answer, good) in enumerate(sides, 1):
        name = example.id if len(sides) == 1 else f"{example.id}, answer {number}"
        found.append(TrainingExample(task, replace(example, id=name, answers=(answer,), rejected=()), good))
    return found


def by_task(lessons: Sequence[TrainingExample]) -> list[tuple[Task, list[int]]]:
    """The places of the lessons of each task."""
    order = sorted(range(len(lessons)), key=lambda place: lessons[place].task.name)
    groups = groupby(order, key=lambda place: lessons[place].task.name)
    found = [list(group) for _, group in groups]
    return [(lessons[places[0]].task, places) for places in found]


def load_training_task(path: str) -> Task:
    """The task of a folder, or of a lone file, which is split.

    Raises:
        InputError: nothing is there, several tasks are, or an example is wrong.
    """
    found = load_tasks(path)
    if len(found) != 1:
        raise InputError(
            f"holds {len(found)} tasks", where=path, fix=f"Name one of them, such as {Path(path) / found[0].name}"
        )
    (task,) = found
    return _split(task) if Path(path).is_file() else task


def _split(task: Task) -> Task:
    """A task of one split, taken apart by the content of its examples."""
    splits: dict[str, list[Example]] = {"train": [], "valid": [], "test": []}
    # The same content twice must not be trained on and tested.
    for example in {example.key: example for example in task.examples("all")}.values():
        tenth = _digest_of_shown(example) % 10
        splits[_TENTHS[tenth] if tenth < len(_TENTHS) else "train"].append(example)
    empty = next((name for name, examples in splits.items() if not examples), None)
    if empty is not None:
        raise InputError(
            f"too few examples ({len(task.examples('all'))}) to split: none is left for '{empty}'",
            where=task.name,
            fix="Give at least 50, or a folder with train.jsonl, valid.jsonl and test.jsonl",
        )
    progress.message(
        f"{task.name}: one file, so {len(splits['train']):,} examples are for training, {len(splits['valid']):,} for "
        f"validation and {len(splits['test']):,} for the test before and after"
    )
    return replace(task, splits=splits)


def _digest_of_shown(example: Example) -> int:
    """Of what a model is shown alone: a prompt with another answer must not be trained on and tested."""
    image = example.image.digest if example.image is not None else ""
    # Of a plain text nothing is shown: it is its answer.
    shown = [list(one) for one in example.messages] or example.prompt or example.answer
    text = json.dumps([image, shown], ensure_ascii=False)
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def _check_unvalued(task: Task) -> None:
    """Refuses labels that are numbers where nothing says what an answer of 0.3 is to be learned as.

    Raises:
        InputError: an example has one.
    """
    for split in ("train", "valid"):
        for example in task.splits.get(split, ()):
            if example.value is not None:
                raise InputError(
                    f"its label is a number ({example.value:g}), which only a process reward model learns from",
                    where=example.place(task.name),
                    fix="Use --objective process_reward, or write true and false",
                )


def _check_teachable(task: Task) -> None:
    if task.asker is not None or not find_metric(task.settings.metric).answers_are_texts:
        raise InputError(
            "its answers are not texts, so it cannot be trained on",
            where=task.name,
            fix="Name a task whose examples have an answer",
        )
    if "all" in task.splits and "train" not in task.splits:
        raise InputError("is not split", where=task.name, fix="Name its file itself, which is then split")
    if not task.splits.get("train"):
        raise InputError("has no training examples", where=task.name, fix="Add a train.jsonl to its folder")
