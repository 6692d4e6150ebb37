"""Examples as tensors a model reads, and what it predicts of their answers.

A task says how an example is put, a kind of model how that becomes tensors (`Model.answer_batches`). The objectives,
localised skills and the ranking of skills are built on this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genepool.errors import InputError
from genepool.tasks import DEFAULT_BATCH, Example, Model, Task
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.metrics import find_metric

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EncodedExamples:
    """Examples as a model reads them.

    Attributes:
        batches: the examples, longest first.
        answers: each example's answer.
    """

    batches: list[AnswerBatch]
    answers: list[str]

    @cached_property
    def classes(self) -> tuple[str, NDArray[np.intp], NDArray[np.bool_]]:
        """What features are told apart by, the class of each example, and which of them count.

        Whole answers where they repeat, each standing twice or more on average; else the answer's first token, which
        the hidden state before it decides. An example whose class no other has says nothing of either.
        """
        whole = 2 * len(set(self.answers)) <= len(self.answers)
        labels = self.answers if whole else self._firsts()
        _, classes, counts = np.unique(np.array(labels), return_inverse=True, return_counts=True)
        return "answer" if whole else "first token", classes, counts[classes] >= 2

    def _firsts(self) -> list[int]:
        """The first target of each example."""
        found: dict[int, int] = {}
        for batch in self.batches:
            for owner, target in zip(batch.owners.tolist(), batch.targets.tolist(), strict=True):
                found.setdefault(batch.numbers[owner], target)
        return [found[number] for number in range(len(self.answers))]


def encode_examples(
    model: Model,
    examples: Sequence[Example],
    task: Task | None = None,
    batch_size: int = DEFAULT_BATCH,
    *,
    closed: bool = False,
    packed: bool = False,
) -> EncodedExamples:
    """Prompts and answers as the task asks them, in tensors, in batches.

    Args:
        model: whose tokenizer, template and context they are for.
        examples: what is asked; the first answer of each counts.
        task: how; bare prompts when None.
        batch_size: examples per batch.
        closed: the token that ends an answer is part of it, where the model has one.
        packed: several short examples share a row, for kinds of model that can tell them apart.

    Raises:
        InputError: there are none, an answer is no text or has no tokens, or one is too long for the model; the example
            is named.
    """
    if not examples:
        raise InputError("there are no examples", where="examples", fix="Give at least 20")
    task = task or Task("examples", {"all": examples})
    if task.asker is None and not find_metric(task.settings.metric).answers_are_texts:
        raise InputError("its answers are patterns, not texts", where=task.name, fix="Give examples with answers")
    questions = [Question(f"{task.name}:{one.id}", task.prompt_for(one, model), one.answer) for one in examples]
    batches = model.answer_batches(questions, batch_size, closed=closed, packed=packed)
    return EncodedExamples(batches, [example.answer for example in examples])


def answer_likelihoods(model: Model, batch: AnswerBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood of every target of a batch, and whether it is the likeliest of all choices."""
    import torch

    logits = model.answer_logits(batch)
    targets = batch.targets.to(logits.device)
    found = torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return found, logits.argmax(-1) == targets
