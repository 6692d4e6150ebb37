"""A language model on a stream: the answers that the stream names are its classes, each as likely as it is to be said.

So every adapter of classifiers adapts language models too. Uses tasks; `adaptation` makes one where a stream has
`choices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question
from genepool.tasks.decoding import DEFAULT_BATCH, batches, continuation
from genepool.tasks.models import Capability, Model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.network import Network


class ChoosingModel(LanguageModel):
    """A causal language model that chooses among answers: their logits are the log-likelihoods of their tokens.

    Args:
        loaded: the model; both hold the same network.
        choices: the answers, two or more.
    """

    kind = "a causal language model that chooses among answers"
    can: ClassVar[frozenset[Capability]] = frozenset({*LanguageModel.can, "classes"})

    def __init__(self, loaded: LanguageModel, choices: Sequence[str]) -> None:
        super().__init__(loaded.taken(), loaded.model, loaded.tokenizer)
        self._choices = tuple(choices)

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers."""
        return self._choices

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        found = torch.zeros(len(prompts), len(self._choices))
        questions = [Question("the prompt", prompt, self._choices[0]) for prompt in prompts]
        with torch.inference_mode():
            for batch in self.answer_batches(questions, batch_size):
                found[batch.numbers] = self.answer_logits(batch).log_softmax(-1).cpu()
        return found

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """Prompts with all answers, whatever the right one is: of a prompt either one row, or one for each answer.

        One row is enough where every answer is one token: all are read at the same place.

        Raises:
            InputError: an answer has no tokens, or a prompt with one is too long for the model; it is named.
        """
        heads = [self.encode(one.prompt) for one in questions]
        tails = [[continuation(self, one.prompt, choice) for choice in self._choices] for one in questions]
        for one, head, own in zip(questions, heads, tails, strict=True):
            self._check(one, len(head), own)
        # All alike: what is added by example (`LowRankPool`) counts on as many rows for each.
        alone = all(len(tail) == 1 for own in tails for tail in own)
        # What stands last in a row is read by nobody.
        rows = [
            [head] if alone else [[*head, *tail[:-1]] for tail in own] for head, own in zip(heads, tails, strict=True)
        ]
        lengths = [sum(map(len, own)) for own in rows]
        return [self._batch(chosen, heads, tails, rows) for chosen in batches(lengths, batch_size, self.logit_bytes)]

    def fits(self, prompt: str) -> bool:
        """Whether there is room for every answer behind a prompt."""
        longest = max(len(continuation(self, prompt, choice)) for choice in self._choices)
        return len(self.encode(prompt)) + longest <= self.context

    def _check(self, question: Question, head: int, tails: Sequence[Sequence[int]]) -> None:
        for choice, tail in zip(self._choices, tails, strict=True):
            if not tail:
                raise InputError(
                    f"the choice {choice!r:.60} has no tokens, so it has no likelihood",
                    where=question.name,
                    fix="Correct `choices` in stream.json",
                )
            if head + len(tail) > self.context:
                raise InputError(
                    f"its prompt ({head} tokens) and the choice {choice!r:.60} ({len(tail)}) exceed the context of "
                    f"{self.context}",
                    where=question.name,
                    fix="Shorten it, or leave it out",
                )

    def _batch(
        self,
        chosen: Sequence[int],
        heads: Sequence[Sequence[int]],
        tails: Sequence[Sequence[Sequence[int]]],
        rows: Sequence[Sequence[Sequence[int]]],
    ) -> AnswerBatch:
        """Some questions: the rows of all, and of every token of every answer where it is predicted."""
        lines: list[Sequence[int]] = []
        marks: list[tuple[int, int, int, int]] = []
        for place, number in enumerate(chosen):
            for at, tail in enumerate(tails[number]):
                line = len(lines) + (at if len(rows[number]) > 1 else 0)
                owner = place * len(self._choices) + at
                marks += [(owner, line, len(heads[number]) - 1 + n, token) for n, token in enumerate(tail)]
            lines += rows[number]
        ids = torch.zeros(len(lines), max(map(len, lines)), dtype=torch.long)
        for line, tokens in enumerate(lines):
            ids[line, : len(tokens)] = torch.tensor(tokens)
        owners, where, places, targets = torch.tensor(marks).T
        inputs = {"input_ids": ids, "owners": owners, "rows": where, "places": places, "tokens": targets}
        return AnswerBatch(inputs, list(chosen), owners, where, places, targets, [])

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """The log-likelihood of every answer, shape (questions, answers), float32."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        # Before the first answer of the batch nothing is asked; with a large vocabulary, logits are most of the memory.
        unread = int(inputs["places"].min()) if self.last_logits_only else 0
        spared = {"logits_to_keep": inputs["input_ids"].shape[1] - unread} if unread else {}
        logits = self.run(batch.numbers, input_ids=inputs["input_ids"], use_cache=False, **spared).logits
        read = logits[inputs["rows"], inputs["places"] - unread].float().log_softmax(-1)
        logs = read.gather(-1, inputs["tokens"].unsqueeze(-1)).squeeze(-1)
        count = int(inputs["owners"].max()) + 1
        return torch.zeros(count, device=logs.device).index_add(0, inputs["owners"], logs).view(-1, len(self._choices))


def choosing(loaded: Model, choices: Sequence[str], where: str) -> Network:
    """A model whose classes are asked on a stream.

    Args:
        loaded: the model.
        choices: the answers that the stream names; none for classifiers and forecasters.
        where: the stream, for errors.

    Raises:
        InputError: it is no classifier and there are no choices, or it is one and there are; or it cannot choose.
    """
    if choices:
        if type(loaded) is LanguageModel:
            return ChoosingModel(loaded, choices)
        raise InputError(
            f"names choices, which causal language models choose among, and {loaded.name} is {loaded.kind}",
            where=where,
            fix="Leave `choices` out of stream.json, or name another model",
        )
    if isinstance(loaded, Network) and loaded.can & {"classes", "forecasts"}:
        return loaded
    fix = "Name another model"
    if type(loaded) is LanguageModel:
        fix = "Name another model, or write the answers that it can give into stream.json as `choices`"
    raise InputError(f"got {loaded.kind}, expected a classifier or a forecaster", where=loaded.name, fix=fix)
