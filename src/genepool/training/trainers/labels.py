"""Steps that learn from answers that are labelled good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.tasks import LanguageModel
from genepool.training.batches import answer_likelihoods
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives import LabelledLikelihoods, LabelledObjective
from genepool.training.states import OWN
from genepool.training.trainers.trainer import Trainer, TrainerInputs
from genepool.training.value_head import ValueHead
from genepool.weights.control import Control

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.tasks.network import Network


class LabelTrainer(Trainer):
    """The mean loss over the tokens of all answers of a step, accepted and rejected ones.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: the objective needs a value head or prefixes, and the model has no place for them; or a right answer
            holds a prefix, which the result does not write.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, LabelledObjective)
        self.objective = inputs.objective
        self._head = ValueHead(self.model) if self.objective.needs_values else None
        never = {}
        if self.objective.prefixes is not None:
            never = check_prefixes(self.model, self.objective.prefixes)
        with self._behind(max(self.objective.prefixes or [""], key=len)):
            self.read_all(self.lessons.train, never)
        self._checked = self._labelled(self.lessons.valid)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {} if self._head is None else {f"{OWN}{name}": one for name, one in self._head.parameters().items()}

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        lessons = self.lessons.at(step, self.recipe.batch)
        encoded = self._labelled(lessons, step)

        def numbers(lesson: TrainingExample, length: int) -> dict[str, float]:
            return {"length": float(length), "reward": reward_of(lesson)}

        return self.token_gradients(step, lessons, encoded, lambda batch, asked: self._losses(batch, asked)[0], numbers)

    def validate(self) -> tuple[float, float] | None:
        """The mean loss over the tokens of all validation answers; the share of accepted ones that are likeliest.

        None where there are no validation examples.
        """
        import torch

        if not self._checked:
            return None
        loss, tokens, right, accepted = 0.0, 0, 0, 0
        with torch.no_grad():
            for batch, places in self._checked:
                lessons = [self.lessons.valid[place] for place in places]
                losses, likeliest = self._losses(batch, lessons)
                loss += float(losses.double().sum())
                tokens += len(batch.targets)
                whole = (batch.means(likeliest.double()) == 1).tolist()
                right += sum(one and lesson.good for one, lesson in zip(whole, lessons, strict=True))
                accepted += sum(lesson.good for lesson in lessons)
        return loss / tokens, right / accepted

    def _labelled(
        self, lessons: Sequence[TrainingExample], step: int | None = None
    ) -> list[tuple[AnswerBatch, list[int]]]:
        """As `encoded`, each answer behind its prefix, where the objective has prefixes.

        Rejected answers come without the token that ends one, where the objective leaves it out.

        Args:
            lessons: what is read.
            step: which decides the answers that have no prefix; None: all have theirs.
        """
        if self.objective.ends_rejected and self.objective.prefixes is None:
            return self.encoded(lessons)
        groups: dict[tuple[bool, str], list[int]] = {}
        for place, lesson in enumerate(lessons):
            groups.setdefault((lesson.good, self._prefix(lesson, step)), []).append(place)
        found = []
        for good, prefix in sorted(groups, reverse=True):
            places = groups[good, prefix]
            closed = None if good or self.objective.ends_rejected else False
            with self._behind(prefix):
                encoded = self.encoded([lessons[place] for place in places], closed=closed)
            found += [(batch, [places[number] for number in numbers]) for batch, numbers in encoded]
        return found

    def _prefix(self, lesson: TrainingExample, step: int | None) -> str:
        """What stands before the answer of a lesson; empty for nothing."""
        if (prefixes := self.objective.prefixes) is None:
            return ""
        if step is not None and self.objective.unprefixed:
            drawn = numpy_generator(self.recipe.seed, "unprefixed", step, lesson.example.key).random()
            if drawn < self.objective.unprefixed:
                return ""
        return prefixes[0] if lesson.good else prefixes[1]

    def _behind(self, prefix: str) -> AbstractContextManager[None]:
        """Inside, answers are read behind a prefix; without one, as the model is asked."""
        if self.objective.prefixes is None:
            return nullcontext()
        assert isinstance(self.model, LanguageModel)
        return self.model.asked_with(Control(prefix) if prefix else None)

    def _losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of every token of a batch of lessons, and whether it is the likeliest."""
        import torch

        values = None
        with nullcontext() if self._head is None else self._head.listening():
            policy, likeliest = answer_likelihoods(self.model, batch)
            if self._head is not None:
                values = self._head.values(batch)
        rewards = torch.tensor([reward_of(lesson) for lesson in lessons])[batch.owners].to(policy.device)
        return self.objective.losses(LabelledLikelihoods(policy, rewards, values)), likeliest


def check_prefixes(model: Network, prefixes: tuple[str, str]) -> dict[str, tuple[int, ...]]:
    """The tokens of prefixes, each by its text; refuses prefixes that a model cannot tell apart.

    Raises:
        InputError: it is no causal language model, it is asked with a prefix already, or it reads both alike.
    """
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"{type(model).kind} reads no prefix between a prompt and its answer",
            where=model.title,
            fix="Name a causal language model, or another --objective",
        )
    if model.control is not None:
        raise InputError(
            f"is asked with {model.control.words} already",
            where=model.title,
            fix="Train its base with all labels at once, or use another --objective",
        )
    good, bad = (model.control_tokens(prefix) for prefix in prefixes)
    if good == bad:
        raise InputError(
            f"its tokenizer reads {prefixes[0]!r} and {prefixes[1]!r} alike",
            where=model.title,
            fix="Set good and bad to texts that it tells apart",
        )
    return dict(zip(prefixes, (good, bad), strict=True))


def reward_of(lesson: TrainingExample) -> float:
    """0 for an accepted answer, -1 for a rejected one: minus how bad it is, as Korbak et al. score a text."""
    return 0.0 if lesson.good else -1.0
