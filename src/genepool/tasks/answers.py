"""Answers that are read rather than written, as batches through which gradients can flow: what training is made of.

A kind of model says how it is shown prompts with their answers (`Model.answer_batches`) and what it predicts at every
place of an answer (`Model.answer_logits`). Here stand the batch they share and how language models make one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.tasks.decoding import batches, continuation

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models.causal_lm import LanguageModel
    from genepool.tasks.tokenized import WritingNetwork

# Tokens of a row that several examples are packed into, unless one is longer.
_PACKED_WIDTH = 512


@dataclass(frozen=True)
class Question:
    """A prompt with its right answer.

    Attributes:
        name: what errors call it.
        prompt, answer: texts; the prompt of an image task is the image's file.
    """

    name: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class AnswerBatch:
    """Some questions as a network reads them, and where their answers stand.

    A target is what should be predicted: a token of an answer, or a class.

    Attributes:
        inputs: what the network is called with.
        numbers: which questions these are.
        owners: of every target, which of `numbers` it belongs to; targets of one stand together, in order.
        rows, places: of every target, where it is predicted: the row of the batch, and the place in it.
        targets: every target.
        last: by question, the place of the last token before its answer; empty for kinds that read no tokens.
    """

    inputs: Mapping[str, torch.Tensor]
    numbers: list[int]
    owners: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    last: list[int]

    def means(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over each question's targets of values that stand one a target, shape (questions,)."""
        import torch

        return torch.stack([part.mean() for part in self.parts(values)])

    def parts(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Each question's part of values that stand one a target, in the order of `numbers`."""
        import torch

        return list(torch.split(values, torch.bincount(self.owners).tolist()))


def text_batches(
    model: LanguageModel, questions: Sequence[Question], batch_size: int, *, closed: bool, packed: bool
) -> list[AnswerBatch]:
    """Questions for a causal language model: prompt and answer in one row, padded on the right.

    Args:
        model: whose tokenizer and context they are for.
        questions: what is asked.
        batch_size: questions in a batch, or rows of packed ones, at most.
        closed: the token that ends an answer is part of it, where the model has one.
        packed: several questions stand in one row; positions say where each begins.

    Raises:
        InputError: an answer has no tokens, or a question is too long for the model; it is named.
    """
    model.encode_ahead(one.prompt + one.answer for one in questions)
    heads = model.encode_all([one.prompt for one in questions])
    tails = [with_end(model, continuation(model, one.prompt, one.answer), one, closed) for one in questions]
    for one, head, tail in zip(questions, heads, tails, strict=True):
        if len(head) + len(tail) > model.context:
            raise InputError(
                f"its prompt ({len(head)} tokens) and answer ({len(tail)}) exceed the context of {model.context}",
                where=one.name,
                fix="Shorten it, leave it out, or set a smaller few_shot (of plain texts a smaller window)",
            )
    return token_batches(model, heads, tails, batch_size, packed=packed)


def token_batches(
    model: LanguageModel,
    heads: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    batch_size: int,
    *,
    packed: bool = False,
) -> list[AnswerBatch]:
    """As `text_batches`, for prompts and answers that are tokens and fit the model's context.

    Args:
        model: who reads them.
        heads: token ids of each prompt.
        tails: of its answer, one or more.
        batch_size, packed: as for `text_batches`.
    """
    import torch

    lengths = [len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)]
    rows = _packed(lengths, min(model.context, _PACKED_WIDTH)) if packed else [[i] for i in range(len(heads))]
    widths = [sum(lengths[i] for i in row) for row in rows]
    made = []
    for chosen in batches(widths, batch_size, model.logit_bytes):
        ids = torch.zeros(len(chosen), max(widths[row] for row in chosen), dtype=torch.long)
        positions = torch.zeros_like(ids)
        numbers: list[int] = []
        last: list[int] = []
        marks: list[tuple[int, int, int, int]] = []
        for line, row in enumerate(chosen):
            start = 0
            for i in rows[row]:
                ids[line, start : start + lengths[i]] = torch.tensor([*heads[i], *tails[i]])
                positions[line, start : start + lengths[i]] = torch.arange(lengths[i])
                last.append(start + len(heads[i]) - 1)
                marks += [(len(numbers), line, last[-1] + at, token) for at, token in enumerate(tails[i])]
                numbers.append(i)
                start += lengths[i]
        inputs = {"input_ids": ids, **({"position_ids": positions} if packed else {})}
        owners, lines, places, targets = torch.tensor(marks).T
        made.append(AnswerBatch(inputs, numbers, owners, lines, places, targets, last))
    return made


def with_end(model: WritingNetwork, tail: Sequence[int], question: Question, closed: bool) -> list[int]:
    """An answer's tokens, and where it is closed the token that ends it.

    Raises:
        InputError: the answer has none.
    """
    if not tail:
        raise InputError("the answer has no tokens, so it has no likelihood", where=question.name, fix="Leave it out")
    return [*tail, *end_of(model)] if closed else list(tail)


def end_of(model: WritingNetwork) -> list[int]:
    """The token that ends an answer that is read; none where the model has none."""
    own = model.tokenizer.eos_token_id
    return [own if own in model.end_tokens else min(model.end_tokens)] if model.end_tokens else []


def class_batch(
    inputs: Mapping[str, torch.Tensor],
    numbers: Sequence[int],
    questions: Sequence[Question],
    labels: Sequence[str],
    name: str,
) -> AnswerBatch:
    """Questions for a classifier, whose answers are its labels.

    Args:
        inputs: what the network is called with.
        numbers: which questions these are, by row.
        questions: all questions.
        labels: the classes.
        name: of the model, for errors.

    Raises:
        InputError: an answer is none of the labels.
    """
    import torch

    for number in numbers:
        if questions[number].answer not in labels:
            raise InputError(
                f"its answer {questions[number].answer[:40]!r} is not a class of {name}",
                where=questions[number].name,
                fix=f"Use one of them: {', '.join(labels[:5])}{'...' if len(labels) > 5 else ''}",
            )
    targets = torch.tensor([labels.index(questions[number].answer) for number in numbers])
    rows = torch.arange(len(numbers))
    return AnswerBatch(inputs, list(numbers), rows, rows, torch.zeros_like(rows), targets, [])


def _packed(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which questions share a row of at most `width` tokens: the longest first, each into the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((at for at, left in enumerate(room) if left >= lengths[i]), None)
        if place is None:
            rows.append([i])
            room.append(max(width, lengths[i]) - lengths[i])
        else:
            rows[place].append(i)
            room[place] -= lengths[i]
    return rows
