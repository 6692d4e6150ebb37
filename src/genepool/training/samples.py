"""What a model in training writes: answers drawn by our own decoding, token by token, and batches of them.

Each answer belongs to (seed, step, example, number of the sample), so a step that is taken again draws the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.tasks import DEFAULT_BATCH, LanguageModel
from genepool.tasks.answers import AnswerBatch, token_batches
from genepool.tasks.decoding import Decoding, generate_tokens
from genepool.training.examples import TrainingExample, by_task

if TYPE_CHECKING:
    from genepool.tasks.network import Network


@dataclass(frozen=True)
class Sample:
    """An answer that a model wrote.

    Attributes:
        lesson: to whose prompt.
        head: the prompt's tokens.
        tokens: the answer's, with what ended it; one or more.
        text: the answer.
    """

    lesson: TrainingExample
    head: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str


def writer(model: Network) -> LanguageModel:
    """The model, if it is one that can draw answers.

    Raises:
        InputError: it is none.
    """
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"{type(model).kind} cannot draw the answers that this objective learns from",
            where=model.title,
            fix="Name a causal language model, or another --objective",
        )
    return model


def draw_samples(
    model: Network, lessons: Sequence[TrainingExample], count: int, temperature: float, *, seed: int, step: int
) -> list[Sample]:
    """Answers to the prompts of some lessons: `count` to the first, then `count` to the next.

    Args:
        model: who writes.
        lessons: what is asked; their tasks say how many tokens and which stops.
        count: answers to each.
        temperature: at which tokens are drawn.
        seed: of the training.
        step: counted from 0; -1 before the first one.

    Raises:
        InputError: the model cannot write, or a prompt does not fit its context.
    """
    able = writer(model)
    found: dict[tuple[int, int], Sample] = {}
    for task, places in by_task(lessons):
        ask = task.settings
        decoding = Decoding(ask.max_new_tokens, tuple(ask.stop), temperature, 1.0, seed)
        order = [(place, number) for place in places for number in range(count)]
        firsts: dict[int, int] = {}
        seen = Counter[str]()
        for place in places:
            # Of an example that comes twice, the second one's samples are further ones.
            firsts[place] = seen[lessons[place].example.key]
            seen[lessons[place].example.key] += count
        prompts = {place: tuple(able.encode(task.prompt_for(lessons[place].example, able))) for place in places}
        keys = [f"{step}\x1f{lessons[place].example.key}\x1f{firsts[place] + number}" for place, number in order]
        written = generate_tokens(able, [prompts[place] for place, _ in order], keys, decoding, DEFAULT_BATCH)
        for at, one in zip(order, written, strict=True):
            found[at] = Sample(lessons[at[0]], prompts[at[0]], one.tokens, one.text)
    return [found[place, number] for place in range(len(lessons)) for number in range(count)]


def sample_batches(model: Network, samples: Sequence[Sample], size: int) -> list[AnswerBatch]:
    """Samples as batches of answers, the longest first.

    Args:
        model: who reads them.
        samples: what was written.
        size: samples in a batch, at most.
    """
    heads, tails = [one.head for one in samples], [one.tokens for one in samples]
    return token_batches(writer(model), heads, tails, size)
