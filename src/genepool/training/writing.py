"""What a model writes before and after a training: how long, how far from what it would have written, and some of it.

Looked at in memory, on a few test examples of each task, after the result is written. Scores are `gains`' matter: a
model can keep its score and still have moved far from its parent. Uses samples and divergences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from genepool.tasks import DEFAULT_BATCH, LanguageModel, Task
from genepool.tasks.decoding import Decoding, generate_tokens
from genepool.tasks.metrics import find_metric
from genepool.training.divergences import drawn_divergences
from genepool.training.examples import TrainingExample
from genepool.training.samples import Sample, draw_samples, sample_batches

if TYPE_CHECKING:
    import torch

    from genepool.training.session import Session
    from genepool.weights import Weights
    from genepool.weights.control import Control

#: Test examples of each task that are looked at, and those of them whose answers are kept.
LOOKED_AT, SHOWN = 16, 4
# What the draws of this look are called among those of a training's steps.
_STEP = -2


@dataclass(frozen=True)
class WritingShown:
    """An example and what both models write to it, as the task asks.

    Attributes:
        id, prompt, answer: of the example.
        before, after: what was written.
    """

    id: str
    prompt: str
    answer: str
    before: str
    after: str


@dataclass(frozen=True)
class Writing:
    """What was written to the examples of one task.

    Attributes:
        task: its name.
        n: examples.
        before, after: mean tokens of an answer, with what ended it.
        kl: KL(after || before) in nats per token: over answers that the trained model drew at temperature 1; None where
            it is no number.
        shown: the first few.
    """

    task: str
    n: int
    before: float
    after: float
    kl: float | None
    shown: tuple[WritingShown, ...]


def measure_writing(
    session: Session, base: Weights, tasks: Sequence[Task], *, seed: int, control: Control | None, limit: int | None
) -> list[dict[str, Any]]:
    """Looks at what a trained model writes, then at what its base wrote; the session is of no use afterwards.

    Args:
        session: with the state that was written.
        base: what it was loaded from.
        tasks: those that are answered by writing are looked at.
        seed: of the training.
        control: the control prefix that the result is asked with.
        limit: test examples of each task, at most, where fewer are asked.

    Returns:
        A `Writing` of each task as plain data; none where the model does not write.
    """
    import torch

    model = session.model
    able = [task for task in tasks if task.asker is None and find_metric(task.settings.metric).needs == "text"]
    if not isinstance(model, LanguageModel) or not able:
        return []
    count = min(LOOKED_AT, LOOKED_AT if limit is None else limit)
    lessons = {task.name: [TrainingExample(task, one) for one in task.examples("test")[:count]] for task in able}
    with torch.no_grad():
        with session.optimiser.in_place(), nullcontext() if control is None else model.asked_with(control):
            after, drawn, policy = {}, {}, {}
            for name, own in lessons.items():
                with session.trained.about(name):
                    after[name] = _answers(model, own)
                    drawn[name] = draw_samples(model, own, 1, 1.0, seed=seed, step=_STEP)
                    policy[name] = _logs(model, drawn[name])
        found = []
        with session.trained.undone(base):
            for task in able:
                name = task.name
                before = _answers(model, lessons[name])
                # The base is asked without a control prefix that only the result knows.
                plain = [
                    replace(one, head=tuple(model.encode(task.prompt_for(one.lesson.example, model))))
                    for one in drawn[name]
                ]
                reference = _logs(model, plain)
                pairs = zip(policy[name], reference, strict=True)
                kl = float(torch.cat([drawn_divergences(p.double(), q.double()) for p, q in pairs]).mean())
                examples = [lesson.example for lesson in lessons[name]]
                shown = tuple(
                    WritingShown(one.id, one.prompt, one.answer, was[0], now[0])
                    for one, was, now in list(zip(examples, before, after[name], strict=True))[:SHOWN]
                )
                old, new = (sum(tokens for _, tokens in part) / len(part) for part in (before, after[name]))
                found.append(asdict(Writing(name, len(examples), old, new, kl if math.isfinite(kl) else None, shown)))
    return found


def _answers(model: LanguageModel, lessons: Sequence[TrainingExample]) -> list[tuple[str, int]]:
    """What the model answers as the task asks it to, and its tokens."""
    task = lessons[0].task
    ask = task.settings
    decoding = Decoding(ask.max_new_tokens, tuple(ask.stop), ask.temperature, ask.top_p, ask.seed)
    heads = [tuple(head) for head in model.encode_all([task.prompt_for(lesson.example, model) for lesson in lessons])]
    keys = [lesson.example.key for lesson in lessons]
    return [(one.text, len(one.tokens)) for one in generate_tokens(model, heads, keys, decoding, DEFAULT_BATCH)]


def _logs(model: LanguageModel, samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Log-likelihoods of the tokens of each sample, on the processor."""
    found: dict[int, torch.Tensor] = {}
    for batch in sample_batches(model, samples, DEFAULT_BATCH):
        logits = model.answer_logits(batch).log_softmax(-1)
        targets = batch.targets.to(logits.device).unsqueeze(-1)
        parts = batch.parts(logits.gather(-1, targets).squeeze(-1).cpu())
        found |= zip(batch.numbers, parts, strict=True)
    return [found[number] for number in range(len(samples))]
