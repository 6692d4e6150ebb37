"""Steps that imitate answers as ways through a model's states, beside answers that it writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.tasks.answers import token_batches
from genepool.training.batches import answer_likelihoods
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives.sequence_match import SequenceMatch, Transitions
from genepool.training.samples import draw_samples, writer
from genepool.training.trainers.trainer import Trainer, TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


@dataclass(frozen=True)
class _Way:
    """A way through the states of a prompt.

    Attributes:
        lesson: which of the step's.
        head: the prompt's tokens.
        tokens: what is written, with what ends it.
        ended: whether the last token ends an answer, so that nothing follows.
        own: whether the model wrote it.
        mistake: (how many tokens stand before it, a wrong token) that is taken back; None for none.
    """

    lesson: int
    head: tuple[int, ...]
    tokens: tuple[int, ...]
    ended: bool
    own: bool
    mistake: tuple[int, int] | None = None


class SequenceMatchTrainer(Trainer):
    """The losses of all steps of the data and of what the model wrote, over the number of the data's steps.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: the model cannot write, its tokenizer has no such backspace, or an answer holds it.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, SequenceMatch)
        self.objective = inputs.objective
        self._writer = writer(self.model)
        self._back: int | None = None
        never: dict[str, tuple[int, ...]] = {}
        if (control := self.objective.control) is not None:
            if self._writer.control is not None:
                raise InputError(
                    f"is asked with {self._writer.control.words} already",
                    where=self.model.title,
                    fix="Name its base, or leave backspace out",
                )
            with self._writer.asked_with(control):
                self._back = self._writer.backspace
            never[control.backspace] = self._writer.control_tokens(control.backspace)
        self.read_all(self.lessons.train, never)
        self._checked = self.encoded(self.lessons.valid)

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        import torch

        lessons = self.lessons.at(step, self.recipe.batch)
        given = self._given(lessons, step)
        ways = [*given, *self._written(lessons, step)]
        count = sum(len(way.tokens) + (way.mistake is not None) for way in given)
        losses = [0.0] * len(lessons)
        total = 0.0
        with self.stepping(step):
            for start in range(0, len(ways), self.size):
                part = ways[start : start + self.size]
                found = self._losses(part)
                share = torch.stack(found).sum() / count
                share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
                for way, loss in zip(part, found, strict=True):
                    losses[way.lesson] += float(loss.detach())
        rows = []
        for place, lesson in enumerate(lessons):
            length = float(len(given[place].tokens))
            rows.append(ExampleRow(lesson.task.name, lesson.example.key, losses[place], numbers={"length": length}))
        return total, rows

    def validate(self) -> tuple[float, float] | None:
        """Minus the mean log-likelihood of the validation answers' tokens, and the share of answers that are likeliest.

        None where there are no validation examples.
        """
        import torch

        if not self._checked:
            return None
        loss, tokens, right, count = 0.0, 0, 0, 0
        with torch.no_grad():
            for batch, places in self._checked:
                logs, likeliest = answer_likelihoods(self.model, batch)
                loss -= float(logs.double().sum())
                tokens += len(batch.targets)
                right += int((batch.means(likeliest.double()) == 1).sum())
                count += len(places)
        return loss / tokens, right / count

    # ------------------------------------------------------------------ ways

    def _given(self, lessons: Sequence[TrainingExample], step: int) -> list[_Way]:
        """The answers of the data, a share of them with a mistake that is taken back."""
        found: dict[int, _Way] = {}
        for batch, places in self.encoded(lessons):
            for number, place in enumerate(places):
                own = batch.owners == number
                row, last = int(batch.rows[own][0]), batch.last[number]
                head = tuple(batch.inputs["input_ids"][row, : last + 1].tolist())
                tokens = tuple(batch.targets[own].tolist())
                ended = tokens[-1] in self._writer.end_tokens
                found[place] = _Way(place, head, tokens, ended, own=False)
        return [self._mistaken(found[place], lesson, step) for place, lesson in enumerate(lessons)]

    def _mistaken(self, way: _Way, lesson: TrainingExample, step: int) -> _Way:
        """A way with one wrong token somewhere, for a share of them, where a backspace is taught."""
        generator = numpy_generator(self.recipe.seed, "mistake", step, lesson.example.key)
        shown = generator.random() < self.objective.options.mistakes
        if self._back is None or not shown or len(way.head) + len(way.tokens) >= self._writer.context:
            return way
        place = int(generator.integers(len(way.tokens)))
        barred = {self._back, way.tokens[place], *self._writer.end_tokens, *self._writer.tokenizer.all_special_ids}
        wrong = np.setdiff1d(np.arange(len(self._writer.tokenizer)), sorted(barred))
        return replace(way, mistake=(place, int(generator.choice(wrong)))) if len(wrong) else way

    def _written(self, lessons: Sequence[TrainingExample], step: int) -> list[_Way]:
        """What the model writes to each prompt; what it takes back is no part of it."""
        with self._writer.asked_with(self.objective.control or self._writer.control):
            drawn = draw_samples(self.model, lessons, 1, 1.0, seed=self.recipe.seed, step=step)
        ends = self._writer.end_tokens
        return [
            _Way(place, one.head, one.tokens, one.tokens[-1] in ends, own=True)
            for place, one in enumerate(drawn)
            if one.tokens
        ]

    # ------------------------------------------------------------------ losses

    def _losses(self, ways: Sequence[_Way]) -> list[torch.Tensor]:
        """The loss of each way."""
        logits = self._logits([(way.head, way.tokens) for way in ways])
        slips = [way for way in ways if way.mistake is not None]
        wrong = self._logits(
            [(way.head, (*way.tokens[:at], token)) for way in slips for at, token in [way.mistake or (0, 0)]]
        )
        behind = {id(way): found[-1] for way, found in zip(slips, wrong, strict=True)}
        losses = []
        for way, found in zip(ways, logits, strict=True):
            steps = self.transitions(way, found, behind.get(id(way)))
            losses.append((self.objective.own_losses if way.own else self.objective.data_losses)(steps).sum())
        return losses

    def transitions(self, way: _Way, logits: torch.Tensor, slip: torch.Tensor | None) -> Transitions:
        """The steps of a way.

        Args:
            way: the way.
            logits: behind the prompt and behind every token, (tokens + 1, vocabulary).
            slip: behind its wrong token, (vocabulary,).
        """
        import torch

        tokens = torch.tensor(way.tokens, device=logits.device)
        count, gamma = len(tokens), self.objective.options.gamma
        chosen = logits[:-1].gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        values = logits.logsumexp(-1)
        discounts = gamma ** torch.arange(count, device=logits.device, dtype=values.dtype)
        steps = Transitions(chosen, values[:-1], values[1:], discounts)
        if way.ended:
            # Behind the end there is one choice, for ever: its steps are alike, and their discounts add up.
            last, for_ever = values[-1:], discounts[-1:] * gamma / (1 - gamma)
            steps = Transitions(
                torch.cat([steps.chosen, last]),
                torch.cat([steps.before, last]),
                torch.cat([steps.after, last]),
                torch.cat([discounts, for_ever]),
            )
        if way.mistake is None or slip is None:
            return steps
        place = way.mistake[0]
        assert self._back is not None
        # The wrong token is not imitated: only the step from it back to where it was chosen.
        return Transitions(
            torch.cat([steps.chosen, slip[self._back].reshape(1)]),
            torch.cat([steps.before, slip.logsumexp(-1).reshape(1)]),
            torch.cat([steps.after, values[place].reshape(1)]),
            torch.cat([steps.discounts, discounts[place].reshape(1) * gamma]),
        )

    def _logits(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[torch.Tensor]:
        """For each prompt with tokens behind it, the logits behind the prompt and each token: (tokens + 1, choices)."""
        if not sequences:
            return []
        heads, tails = [list(head) for head, _ in sequences], [list(tail) for _, tail in sequences]
        found: dict[int, torch.Tensor] = {}
        for batch in token_batches(self._writer, heads, tails, len(sequences)):
            whole = _with_last(batch)
            parts = whole.parts(self.model.answer_logits(whole))
            found |= zip(whole.numbers, parts, strict=True)
        return [found[number] for number in range(len(sequences))]


def _with_last(batch: AnswerBatch) -> AnswerBatch:
    """The batch with one place more for each answer: that of its last token, where no target is."""
    import torch

    counts = torch.bincount(batch.owners).tolist()
    rows, places = torch.split(batch.rows, counts), torch.split(batch.places, counts)
    return replace(
        batch,
        owners=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts) + 1),
        rows=torch.cat([torch.cat([row, row[-1:]]) for row in rows]),
        places=torch.cat([torch.cat([place, place[-1:] + 1]) for place in places]),
        targets=torch.cat([torch.cat([part, part[-1:]]) for part in torch.split(batch.targets, counts)]),
    )
