"""Dark experience replay++: kept examples are rehearsed with what the model predicted when it saw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.seeding import numpy_generator
from genepool.training.continual.memory import KeptExample, Memory, example_bytes
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.examples import TrainingExample


class DerOptions(LearnerOptions):
    """Options of `der_pp`."""

    size: int = Field(default=128, ge=1, le=10**6, description="Examples that are kept of all tasks together.")
    alpha: float = Field(default=0.1, ge=0, description="Of the squared difference to the kept logits.")
    beta: float = Field(default=0.5, ge=0, description="Of the likelihood of the right answers of kept examples.")
    minibatch: int = Field(default=32, ge=1, description="Kept examples that each of both terms draws in a step.")


@dataclass(frozen=True)
class _Kept:
    """An example with what was predicted of it: logits of every target, (targets, choices)."""

    lesson: TrainingExample
    logits: torch.Tensor


class DerPlusPlus(TaskLearner):
    """Adds `alpha * mean (logits - kept logits)^2 + beta * CE`, each on kept examples of its own.

    What is kept is a reservoir sample of everything that was seen so far, of the running task too; the logits are those
    of the step in which the example was seen.
    """

    name = "der_pp"
    source = (
        "Buzzega et al., Dark Experience for General Continual Learning, arXiv:2004.07211; alpha 0.1, beta 0.5 and 32 "
        "examples as Mammoth's best for sequential CIFAR-10 with a buffer of 200; the size is ours"
    )
    when = "examples of earlier tasks may be kept with what was predicted of them"
    Options: ClassVar[type[LearnerOptions]] = DerOptions
    options: DerOptions

    def begin_task(self) -> None:
        place = self.place
        self._seen = int(self.memory.facts.get("seen", 0))
        self._own = {id(lesson): at for at, lesson in enumerate(place.lessons)}
        self._buffer = {
            slot: _Kept(place.earlier[one.task, one.key], self.memory.tensors[f"logits:{slot}"])
            for slot, one in enumerate(self.memory.examples)
        }
        self._chosen: dict[int, TrainingExample] = {}
        self._logits: dict[int, torch.Tensor] = {}

    def lessons(self, step: int, drawn: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
        # Every step before it had as many: what was seen is a function of the step.
        first = self._seen + step * len(drawn)
        self._chosen, self._logits = {}, {}
        places = numpy_generator(self.place.seed, "reservoir", step).random(len(drawn)).tolist()
        for at, (lesson, place) in enumerate(zip(drawn, places, strict=True)):
            seen = first + at
            slot = seen if seen < self.options.size else int(place * (seen + 1))
            if slot < self.options.size:
                self._chosen[slot] = lesson
        self._after = first + len(drawn)
        return drawn

    def losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> torch.Tensor:
        logits = self.place.model.answer_logits(batch)
        wanted = {id(lesson) for lesson in self._chosen.values()}
        for lesson, part in zip(lessons, batch.parts(logits.detach()), strict=True):
            if id(lesson) in wanted:
                self._logits[id(lesson)] = part.cpu()
        return _cross_entropy(logits, batch)

    def penalty(self, step: int) -> torch.Tensor | None:
        import torch

        if not self._buffer:
            return None
        ask, terms = self.options, []
        if ask.alpha:
            away, entries = [], 0
            for batch, kept in self._drawn(step, "logits"):
                logits = self.place.model.answer_logits(batch)
                wanted = torch.cat([one.logits for one in kept]).to(logits.device)
                away.append((logits - wanted).square().sum())
                entries += wanted.numel()
            terms.append(ask.alpha * torch.stack(away).sum() / entries)
        if ask.beta:
            losses = [
                _cross_entropy(self.place.model.answer_logits(batch), batch)
                for batch, _ in self._drawn(step, "answers")
            ]
            terms.append(ask.beta * torch.cat(losses).mean())
        return torch.stack(terms).sum() if terms else None

    def _drawn(self, step: int, purpose: str) -> list[tuple[AnswerBatch, list[_Kept]]]:
        """Kept examples for a term, as batches, with what was kept of each row."""
        slots = sorted(self._buffer)
        count = min(self.options.minibatch, len(slots))
        places = numpy_generator(self.place.seed, f"der {purpose}", step).choice(len(slots), count, replace=False)
        kept = [self._buffer[slots[place]] for place in places.tolist()]
        encoded = self.place.encode([one.lesson for one in kept])
        return [(batch, [kept[place] for place in rows]) for batch, rows in encoded]

    def after_step(self) -> None:
        for slot, lesson in self._chosen.items():
            # A copy each: a step that has an example twice may keep it twice, and states are stored tensor by tensor.
            self._buffer[slot] = _Kept(lesson, self._logits[id(lesson)].clone())
        self._chosen, self._logits = {}, {}

    def end_task(self) -> Memory:
        kept = [self._buffer[slot] for slot in range(len(self._buffer))]
        examples = [
            KeptExample(one.lesson.task.name, one.lesson.example.key, example_bytes(one.lesson.example)) for one in kept
        ]
        return Memory(
            {f"logits:{slot}": one.logits for slot, one in enumerate(kept)}, tuple(examples), {"seen": self._after}
        )

    def state(self) -> dict[str, torch.Tensor]:
        import torch

        own = {
            f"{slot}:{self._own[id(one.lesson)]}": one.logits
            for slot, one in self._buffer.items()
            if id(one.lesson) in self._own
        }
        return {**own, "seen": torch.tensor(self._after)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        self._after = int(state["seen"])
        for name, logits in state.items():
            slot, _, lesson = name.partition(":")
            if lesson:
                self._buffer[int(slot)] = _Kept(self.place.lessons[int(lesson)], logits)


def _cross_entropy(logits: torch.Tensor, batch: AnswerBatch) -> torch.Tensor:
    """Minus the log-likelihood of every target, (targets,)."""
    targets = batch.targets.to(logits.device).unsqueeze(-1)
    return -logits.log_softmax(-1).gather(-1, targets).squeeze(-1)
