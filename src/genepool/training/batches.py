"""Examples as tensors a model reads, and the likelihood of their answers.

Uses tasks; the objectives, localised skills and the ranking of skills are built on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genepool.errors import InputError
from genepool.tasks import DEFAULT_BATCH, Example, LanguageModel, Task
from genepool.tasks.decoding import batches, continuation

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """Some examples as the model reads them, and where their answers stand.

    Attributes:
        ids: tokens, padded on the right, (rows, width).
        numbers: which examples these are, by row.
        last: the place of the last token before the answer, by row.
        rows, places, targets: of every token of an answer, the row, the place of the token before it, and itself.
    """

    ids: torch.Tensor
    numbers: list[int]
    last: list[int]
    rows: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor

    def means(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over each row's answer of values that stand one a token."""
        import torch

        return torch.stack([part.mean() for part in torch.split(values, torch.bincount(self.rows).tolist())])


@dataclass(frozen=True)
class Encoded:
    """All examples.

    Attributes:
        batches: the examples, longest first.
        answers: each example's answer.
        tails: its tokens.
    """

    batches: list[Batch]
    answers: list[str]
    tails: list[list[int]]

    @cached_property
    def classes(self) -> tuple[str, NDArray[np.intp], NDArray[np.bool_]]:
        """What features are told apart by, the class of each example, and which of them count.

        Whole answers where they repeat, each standing twice or more on average; else the answer's first token, which
        the hidden state before it decides. An example whose class no other has says nothing of either.
        """
        whole = 2 * len(set(self.answers)) <= len(self.answers)
        labels = self.answers if whole else [tail[0] for tail in self.tails]
        _, classes, counts = np.unique(np.array(labels), return_inverse=True, return_counts=True)
        return "answer" if whole else "first token", classes, counts[classes] >= 2


def encode_examples(
    model: LanguageModel,
    examples: Sequence[Example],
    task: Task | None = None,
    batch_size: int = DEFAULT_BATCH,
    *,
    closed: bool = False,
) -> Encoded:
    """Prompts and answers as the task asks them, in tokens, in batches.

    Args:
        model: whose tokenizer, template and context they are for.
        examples: what is asked; the first answer of each counts.
        task: how; bare prompts when None.
        batch_size: examples per batch.
        closed: the token that ends an answer is part of it, where the model has one.

    Raises:
        InputError: there are none, an answer is no text or has no tokens, or one is too long for the model.
    """
    import torch

    task = task or Task("examples", {"all": examples})
    heads, tails = encode_texts(model, examples, task, closed=closed)
    lengths = [len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)]
    made = []
    for numbers in batches(lengths, batch_size, 4 * model.vocabulary_size):
        ids = torch.zeros(len(numbers), max(lengths[i] for i in numbers), dtype=torch.long)
        for row, i in enumerate(numbers):
            ids[row, : lengths[i]] = torch.tensor(heads[i] + tails[i])
        last = [len(heads[i]) - 1 for i in numbers]
        marks = [(row, last[row] + at, token) for row, i in enumerate(numbers) for at, token in enumerate(tails[i])]
        made.append(Batch(ids, numbers, last, *torch.tensor(marks).T))
    return Encoded(made, [example.answer for example in examples], tails)


def encode_texts(
    model: LanguageModel, examples: Sequence[Example], task: Task, *, closed: bool = False
) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens of prompts and of answers, as `encode_examples` puts them into batches.

    Raises:
        InputError: as `encode_examples`; the example is named.
    """
    if not examples:
        raise InputError("no examples", where="examples", fix="Give 20 at least")
    if task.asker is None and task.settings.metric == "regex":
        raise InputError("its answers are patterns, not texts", where=task.name, fix="Give examples with answers")
    heads = [model.encode(task.prompt_for(example, model)) for example in examples]
    tails = [_tail(model, example, task, closed) for example in examples]
    for example, head, tail in zip(examples, heads, tails, strict=True):
        if len(head) + len(tail) > model.context:
            raise InputError(
                f"its prompt of {len(head)} tokens and answer of {len(tail)} are longer than the context of "
                f"{model.context}",
                where=f"{task.name}:{example.id}",
                fix="Shorten it or leave it out, or show fewer examples",
            )
    return heads, tails


def _tail(model: LanguageModel, example: Example, task: Task, closed: bool) -> list[int]:
    tail = continuation(model, task.prompt_for(example, model), example.answer)
    if not tail:
        where = f"{task.name}:{example.id}"
        raise InputError("an answer without tokens has no likelihood", where=where, fix="Leave it out")
    if closed and model.end_tokens:
        own = model.tokenizer.eos_token_id
        tail = [*tail, own if own in model.end_tokens else min(model.end_tokens)]
    return tail


def answer_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """What the model predicts at every token of the answers, (tokens, vocabulary), float32, before the softmax."""
    device = model.device
    logits = model.model(input_ids=batch.ids.to(device), use_cache=False).logits
    found: torch.Tensor = logits[batch.rows.to(device), batch.places.to(device)].float()
    return found


def answer_likelihoods(model: LanguageModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood of every token of the answers, and whether it is the likeliest at its place."""
    import torch

    shares = answer_logits(model, batch)
    targets = batch.targets.to(model.device)
    found = torch.log_softmax(shares, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return found, shares.argmax(-1) == targets
