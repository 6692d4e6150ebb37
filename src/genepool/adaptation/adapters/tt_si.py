"""Test-time self-improvement: a language model writes lessons about what it is unsure of, and learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from genepool.adaptation.adapter import AdapterOptions, Answered, Signals, SourceExamples, StreamAdapter, StreamBatch
from genepool.adaptation.choosing_model import ChoosingModel
from genepool.adaptation.low_rank_pool import LowRankPool
from genepool.adaptation.stream_model import Inputs
from genepool.checked import is_whole
from genepool.errors import InputError
from genepool.seeding import derive, torch_generator
from genepool.tasks.answers import Question
from genepool.tasks.decoding import Decoding

_PROMPT = "{prompt}"
_COUNTS = ("asked", "written", "lessons")

#: Which items a model teaches itself about.
Select = Literal["uncertain", "certain", "random"]


class SelfImprovementOptions(AdapterOptions):
    """Options of test-time self-improvement."""

    ask: str = Field(
        default="Write one more example like this one, with its answer.\n\n{prompt}",
        description="What the model is asked for a lesson, with the item at {prompt}; ours. It must write a prompt "
        "with one of the stream's choices at its end.",
    )
    margin: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="An item is uncertain whose likeliest answer leads the next by less than this share; ours.",
    )
    select: Select = Field(
        default="uncertain",
        description="Learn of `uncertain` items, or of as many `certain` or `random` ones, as controls; where over "
        "half are uncertain, the most certain ones are so in part.",
    )
    lessons: int = Field(default=4, ge=1, le=1000, description="Lessons that are written about an item; ours.")
    temperature: float = Field(default=1.0, gt=0, le=100, description="At which lessons are drawn; ours.")
    tokens: int = Field(default=64, ge=1, le=100_000, description="New tokens of a lesson, at most; ours.")
    rank: int = Field(default=8, ge=1, le=1024, description="Rank of the factors; the paper, as others tell it.")
    alpha: float = Field(default=16.0, gt=0, le=1e6, description="Factors count alpha / rank; as `rank`.")
    epochs: int = Field(default=5, ge=1, le=1000, description="Steps, each over all lessons of an item; as `rank`.")
    rate: float = Field(default=1e-4, gt=0, le=10, description="Learning rate of Adam; as `rank`.")


class SelfImprovement(StreamAdapter):
    """Answers an uncertain item after learning from lessons about it that the model wrote itself, and forgets them.

    With p the likelihoods of the choices, normalised, an item is uncertain where p_(1) - p_(2) < m. About each the
    model writes k lessons; what does not end with one of the choices, or is too long to read, is none. Low-rank factors
    of the item's own minimise the mean of -ln P(answer | prompt) over its lessons, by Adam, and the item is answered
    with them. Then they are gone: nothing is carried from one item to the next, so clean examples are always answered
    by the model as it is.

    All items of a batch learn at the same time, each its own factors: their losses are added, so each gets the
    gradient that it would get alone.
    """

    name = "tt_si"
    source = "Acikgoz et al., arXiv:2510.07841, as others tell it; how lessons are asked for and the margin are ours"
    when = "a language model can write examples better than it answers, and time does not matter"
    trains = "added"
    needs = frozenset({"a language model"})
    order = "It does not matter: nothing is carried on."
    Options = SelfImprovementOptions

    def _prepare(self, source: SourceExamples | None) -> None:
        assert isinstance(self.options, SelfImprovementOptions)
        if _PROMPT not in self.options.ask:
            raise InputError("holds no {prompt}", where="--set ask", fix="Say where the item stands")
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._signals = (torch.zeros(0, dtype=torch.bool), torch.zeros(0))

    def predict(self, batch: StreamBatch) -> torch.Tensor:
        found = self.model.probabilities(batch.inputs)
        chosen = self._chosen(found, batch.number)
        lessons = self._lessons(batch, chosen)
        self._signals = (torch.zeros(len(batch), dtype=torch.bool), torch.zeros(len(batch)))
        if not lessons:
            return found
        for row, _ in lessons:
            self._signals[0][row] = True
            self._signals[1][row] += 1
        return self._answered(batch, chosen, lessons)

    def _chosen(self, probabilities: torch.Tensor, number: int) -> list[int]:
        """The items of a batch that are learned of, in order."""
        assert isinstance(self.options, SelfImprovementOptions)
        best = probabilities.topk(2, dim=-1).values
        lead = best[:, 0] - best[:, 1]
        count = int((lead < self.options.margin).sum())
        if self.options.select == "random":
            order = torch.randperm(len(lead), generator=torch_generator(self.seed, "self-improvement items", number))
        else:
            order = lead.argsort(descending=self.options.select == "certain", stable=True)
        return sorted(order[:count].tolist())

    def _lessons(self, batch: StreamBatch, chosen: Sequence[int]) -> list[tuple[int, Question]]:
        """What the model writes about some items, each with the row of its item."""
        assert isinstance(self.options, SelfImprovementOptions)
        model = self._asked()
        asks = {row: self.options.ask.replace(_PROMPT, batch.prompts[row]) for row in chosen}
        # Where the question alone fills what the model can read, nothing can be written.
        rows = [
            row for row in chosen if len(model.encode(asks[row])) < model.context for _ in range(self.options.lessons)
        ]
        prompts = [asks[row] for row in rows]
        keys = [f"{batch.number}/{batch.keys[row]}/{at % self.options.lessons}" for at, row in enumerate(rows)]
        decoding = Decoding(
            max_new_tokens=self.options.tokens,
            temperature=self.options.temperature,
            seed=derive(self.seed, "self-improvement lessons"),
        )
        written = model.write(prompts, keys, decoding) if rows else []
        told = [
            (row, lesson_of(one.text, model.labels, key)) for row, one, key in zip(rows, written, keys, strict=True)
        ]
        found = [(row, lesson) for row, lesson in told if lesson is not None and model.fits(lesson.prompt)]
        for name, more in zip(_COUNTS, (len(chosen), len(rows), len(found)), strict=True):
            self._counts[name] += more
        return found

    def _asked(self) -> ChoosingModel:
        model = self.model.asked
        assert isinstance(model, ChoosingModel)
        return model

    def _answered(
        self, batch: StreamBatch, chosen: Sequence[int], lessons: Sequence[tuple[int, Question]]
    ) -> torch.Tensor:
        """The probabilities of a batch, shape (n, classes): of its chosen items after their lessons."""
        assert isinstance(self.options, SelfImprovementOptions)
        options, model = self.options, self._asked()
        # The last pair is never taught: it is for items that nothing is learned of.
        pool = LowRankPool(
            self.model, len(chosen) + 1, options.rank, options.alpha / options.rank,
            derive(self.seed, "self-improvement factors", batch.number),
        )  # fmt: skip
        pairs = {row: at for at, row in enumerate(chosen)}
        try:
            own = torch.tensor([pairs[row] for row, _ in lessons])
            inputs = read_questions(model, [lesson for _, lesson in lessons])
            targets = torch.tensor([model.labels.index(lesson.answer) for _, lesson in lessons], device=model.device)
            share = (1 / torch.bincount(own).clamp_min(1).float())[own].to(model.device)
            optimiser = torch.optim.Adam(list(pool.tensors.values()), lr=options.rate)
            for _ in range(options.epochs):
                logs = pool.logits(inputs, own).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
                optimiser.zero_grad(set_to_none=True)
                (-(share * logs).sum()).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            choice = torch.tensor([pairs.get(row, len(chosen)) for row in range(len(batch))])
            with torch.no_grad():
                return pool.logits(batch.inputs, choice).softmax(-1).cpu()
        finally:
            pool.remove()

    def update(self, batch: StreamBatch, late: Sequence[Answered]) -> Signals:
        """Nothing is kept; an example's weight is its number of lessons."""
        return Signals(*self._signals)

    def _values(self) -> dict[str, Any]:
        return dict(self._counts)

    def _restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        if not all(is_whole(values[name], 0) for name in _COUNTS):
            raise ValueError("a count that is no whole number")
        self._counts = {name: values[name] for name in _COUNTS}


def lesson_of(text: str, choices: Sequence[str], name: str) -> Question | None:
    """A lesson out of what a model wrote: a prompt with one of the choices at its end; None where it is none.

    Args:
        text: what it wrote.
        choices: answers; the longest that fits counts.
        name: of the lesson, for errors.
    """
    whole = text.strip()
    for choice in sorted(choices, key=len, reverse=True):
        prompt = whole.removesuffix(choice)
        if whole.endswith(choice) and prompt.strip():
            return Question(name, prompt, choice)
    return None


def read_questions(model: ChoosingModel, questions: Sequence[Question]) -> Inputs:
    """Questions as a model reads them."""
    parts = tuple(
        (tuple(one.numbers), {name: tensor.to(model.device) for name, tensor in one.inputs.items()})
        for one in model.answer_batches(questions, len(questions))
    )
    return Inputs(parts, len(questions))
