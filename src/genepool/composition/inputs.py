"""The examples of a fit as tensors: with their answers, or with what each skill itself predicts on its own task.

The second needs no labels: a skill is asked its task's inputs, its answers stand in the place of labels, and its
predictions at each of their tokens (or of the class) are recorded. Inputs on which a skill always answers alike are
refused, since every objective without labels then finds that answer for everything. Uses `world` and tasks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool import progress
from genepool.composition.world import ComposedTask, World
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.tasks import DEFAULT_BATCH
from genepool.tasks.answering import answer
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.metrics import find_metric
from genepool.tasks.playing import demonstrations

if TYPE_CHECKING:
    import torch

    from genepool.tasks.network import Network

#: Of the inputs of a task, the share that is held out, to tell when to stop; of fewer inputs than this none.
_HELD, _FEWEST = 0.25, 4
# Steps of an episode that are learned from, at most: neighbours are nearly alike.
_STEPS = 32


@dataclass(frozen=True)
class RecordedPredictions:
    """What was predicted for the targets of a batch before: a teacher that needs no network.

    Attributes:
        logs: log-probabilities, shape (targets, choices).
    """

    logs: torch.Tensor

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """The record; see `Model.answer_logits`."""
        return self.logs


@dataclass(frozen=True)
class TaskInputs:
    """The inputs of one task.

    Attributes:
        name: of the task.
        questions: prompts with answers: the right ones, or the owner's own.
        closed: whether the end belongs to an answer.
        learn: numbers of the questions that are fitted on.
        held: numbers of those that are held out.
        recorded: what the owner predicts for each question, shape (targets, choices); empty where it was not asked.
    """

    name: str
    questions: tuple[Question, ...]
    closed: bool
    learn: tuple[int, ...]
    held: tuple[int, ...]
    recorded: tuple[torch.Tensor, ...] = ()

    def digest(self) -> str:
        """SHA-256, hex, of everything that decides what is learned from them."""
        total = hashlib.sha256(f"{self.name}\x1f{self.closed}\x1f{len(self.learn)}".encode())
        for question in self.questions:
            total.update(f"\x1f{question.prompt}\x1f{question.answer}".encode())
        return total.hexdigest()

    def chosen(self, seed: int, step: int, size: int) -> list[int]:
        """The questions of a step, counted from 0: the next of an endless row of shuffled rounds."""
        count = len(self.learn)
        size = min(size, count)
        places = range(step * size, (step + 1) * size)
        # Drawn once for all places of a round: a draw for each takes longer than the step of a small network.
        orders = {number: self._order(seed, number) for number in {place // count for place in places}}
        return [self.learn[orders[place // count][place % count]] for place in places]

    def _order(self, seed: int, number: int) -> list[int]:
        drawn = numpy_generator(seed, "order", self.name, number).permutation(len(self.learn))
        return [int(place) for place in drawn]

    def batches(
        self, network: Network, numbers: Sequence[int], size: int
    ) -> list[tuple[AnswerBatch, RecordedPredictions | None]]:
        """Some questions as tensors, each batch with what its owner predicted."""
        import torch

        asked = [self.questions[number] for number in numbers]
        found = []
        for batch in network.answer_batches(asked, size, closed=self.closed):
            teacher = None
            if self.recorded:
                teacher = RecordedPredictions(torch.cat([self.recorded[numbers[at]] for at in batch.numbers]))
            found.append((batch, teacher))
        return found


def labelled_inputs(world: World) -> list[TaskInputs]:
    """Every task's examples with their right answers."""
    found = []
    for composed in world.tasks:
        task = composed.task
        if _played(composed):
            found.append(_expert_inputs(world, composed))
            continue
        if not find_metric(task.settings.metric).answers_are_texts:
            raise InputError("its answers are patterns, not texts", where=task.name, fix="Give examples with answers")
        questions = tuple(
            Question(f"{task.name}:{one.id}", task.prompt_for(one, world.network), one.answer)
            for one in composed.examples
        )
        found.append(TaskInputs(task.name, questions, _closed(composed), *parted(len(questions))))
    return found


def own_answers(world: World, *, check: bool = True) -> list[TaskInputs]:
    """Every task's inputs with the answers and the predictions of the skill that it belongs to; of the base for others.

    Args:
        world: the skills and the tasks. Its network holds the base afterwards.
        check: refuse inputs on which a skill always answers alike.

    Raises:
        InputError: a skill answers nothing, or always the same.
    """
    found = []
    with progress.bar("asking each skill its own task", len(world.tasks), "tasks") as bar:
        for composed in world.tasks:
            owner = world.skills.base
            if composed.owner is not None:
                owner = world.skills.skills[composed.owner].change.applied()
            bar.note(owner.name)
            world.network.assign(owner)
            found.append(own_answers_of(composed, world.network, check and composed.owner is not None))
            bar.advance()
    world.network.assign(world.skills.base)
    return found


def own_answers_of(composed: ComposedTask, network: Network, check: bool) -> TaskInputs:
    """One task's inputs with the answers and the predictions of whatever the network holds; see `own_answers`."""
    task = composed.task
    questions = _answered(composed, network)
    inputs = TaskInputs(task.name, questions, _closed(composed), *parted(len(questions)))
    recorded = _predictions(network, inputs)
    if check:
        _check_varied(inputs, recorded, network, {choice for one in composed.examples for choice in one.choices})
    return TaskInputs(inputs.name, questions, inputs.closed, inputs.learn, inputs.held, recorded)


def _answered(composed: ComposedTask, network: Network) -> tuple[Question, ...]:
    """One task's inputs with the answers that the network gives; of episodes, some of the steps that it takes.

    Raises:
        InputError: it answers none.
    """
    task = composed.task
    if _played(composed):
        steps = demonstrations(network, task, composed.examples, DEFAULT_BATCH, _STEPS)
        questions = tuple(Question(*step) for step in steps)
    else:
        outcomes = answer(network, task, composed.examples, DEFAULT_BATCH, True)
        pairs = [(one, told.output) for one, told in zip(composed.examples, outcomes, strict=True) if told.output]
        if 0 < len(pairs) < len(outcomes):
            progress.message(f"{task.name}: {len(outcomes) - len(pairs)} inputs without an answer are left out")
        questions = tuple(
            Question(f"{task.name}:{one.id}", task.prompt_for(one, network), output) for one, output in pairs
        )
    if not questions:
        raise InputError(
            f"{network.name} answers none of its inputs", where=task.name, fix="Give other inputs, or leave it out"
        )
    return questions


def _expert_inputs(world: World, composed: ComposedTask) -> TaskInputs:
    """What the skill that a task of episodes belongs to does there: the right answers.

    Raises:
        InputError: the task belongs to no skill.
    """
    task, owner = composed.task, composed.owner
    if owner is None:
        raise InputError(
            "is a task of episodes and belongs to no skill, so nobody shows what is right",
            where=task.name,
            fix="Leave it out with --task, or give demonstrations: lines with an observation and an action",
        )
    world.network.assign(world.skills.skills[owner].change.applied())
    questions = _answered(composed, world.network)
    world.network.assign(world.skills.base)
    return TaskInputs(task.name, questions, False, *parted(len(questions)))


def inputs_in_order(world: World) -> list[TaskInputs]:
    """The labelled inputs of the tasks of a world's skills, in the order of the skills.

    Raises:
        InputError: a skill has no task.
    """
    known, names = {one.name: one for one in labelled_inputs(world)}, world.skills.names
    for name in names:
        if name not in known:
            raise world.lacks_task(name, "nothing is known of what it teaches")
    if others := [name for name in known if name not in names]:
        progress.message(f"{', '.join(others)}: belongs to no skill, so it is not learned")
    return [known[name] for name in names]


def _played(composed: ComposedTask) -> bool:
    return find_metric(composed.task.settings.metric).needs == "episode"


def _predictions(network: Network, inputs: TaskInputs) -> tuple[torch.Tensor, ...]:
    import torch

    found: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for batch, _ in inputs.batches(network, range(len(inputs.questions)), DEFAULT_BATCH):
            logs = network.answer_logits(batch).float().log_softmax(-1).cpu()
            parts = torch.split(logs, torch.bincount(batch.owners).tolist())
            found |= zip(batch.numbers, parts, strict=True)
    return tuple(found[number] for number in range(len(inputs.questions)))


def _check_varied(
    inputs: TaskInputs, recorded: Sequence[torch.Tensor], network: Network, choices: Collection[str]
) -> None:
    """Refuses inputs of one class, which a skill's own predictions tell without labels.

    Args:
        inputs: as the skill answered them.
        recorded: what it predicts for each.
        network: holds the skill.
        choices: the classes that the task asks about; empty for all that the model has. A head may have those of
            other tasks too.

    Raises:
        InputError: of a classifier, the entropy of the mean prediction is below half of what equally frequent classes
            would have; of a model that writes, all answers are one.
    """
    import torch

    count = len(inputs.questions)
    if count < 2:
        return
    answers = {question.answer for question in inputs.questions}
    if "classes" in network.can:
        mean = torch.cat(list(recorded)).exp().mean(0)
        if own := [at for at, label in enumerate(network.labels) if label in choices]:
            mean = mean[own] / mean[own].sum().clamp_min(1e-30)
        entropy = float(-(mean * mean.clamp_min(1e-30).log()).sum())
        varied = entropy >= 0.5 * math.log(min(len(mean), count))
    else:
        varied = len(answers) > 1
    if not varied:
        raise InputError(
            f"{network.name} answers {count} inputs nearly alike ({sorted(answers)[0][:40]!r}), so nothing can be "
            "learned from them without labels",
            where=inputs.name,
            fix="Give inputs with different answers, more --examples, or --set check_inputs=false",
        )


def parted(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of what is learned from, and of what is held out: the last of the drawn examples."""
    held = round(_HELD * count) if count >= _FEWEST else 0
    return tuple(range(count - held)), tuple(range(count - held, count))


def _closed(composed: ComposedTask) -> bool:
    """Whether the end belongs to an answer: a choice is judged by its text alone, what is written must also end."""
    return find_metric(composed.task.settings.metric).needs == "text"
