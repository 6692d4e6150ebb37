"""Steps that learn from what the model itself writes, and how that is rewarded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool import progress
from genepool.errors import InputError
from genepool.tasks.answering import answer
from genepool.tasks.metrics import find_metric
from genepool.training.divergences import drawn_divergences
from genepool.training.examples import by_task
from genepool.training.journal import ExampleRow
from genepool.training.objectives import RolloutLikelihoods, RolloutObjective
from genepool.training.rewards import Rewards
from genepool.training.samples import Sample, draw_samples, sample_batches, writer
from genepool.training.trainers.trainer import Trainer, TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.objectives import Teacher

#: The share of a step's samples that a reward may fail on; beyond it the training ends.
MOST_FAILED = 0.5
#: Examples on which the majority is measured before the first step.
_MEASURED = 128


@dataclass(frozen=True)
class _Drawn:
    """The samples of a step, which later ones may share.

    Attributes:
        step: at which they were drawn.
        samples: one prompt's after another's.
        rewards, advantages: shape (samples,); a reward is NaN where it failed.
        drawn: log-likelihoods of every token at drawing, by sample; empty where they are used for one step only.
    """

    step: int
    samples: list[Sample]
    rewards: torch.Tensor
    advantages: torch.Tensor
    drawn: dict[int, torch.Tensor]


class RolloutTrainer(Trainer):
    """The mean loss over the tokens of all samples of a step.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: the model cannot write, or an answer cannot be judged.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, RolloutObjective)
        self.objective, self.drawing = inputs.objective, inputs.objective.drawing
        writer(self.model)
        self.rewards = Rewards(self.drawing.reward)
        for task in self.lessons.tasks:
            if find_metric(task.settings.metric).needs != "text":
                raise InputError(
                    "is answered by a choice, so nothing is written that could be rewarded",
                    where=task.name,
                    fix="Use another --objective",
                )
        self.read_all(self.lessons.train)
        # Without a copy of all tensors the divergence is there for the asking.
        self._compares = self.objective.needs_reference or self.recipe.form == "lora"
        self._last: _Drawn | None = None

    def before_first_step(self) -> None:
        if not self.rewards.follows_majority:
            return
        lessons = (self.lessons.valid or self.lessons.train)[:_MEASURED]
        drawn = draw_samples(
            self.model, lessons, self.drawing.samples, self.drawing.temperature, seed=self.recipe.seed, step=-1
        )
        share = self.rewards.measured_majority(drawn, self.drawing.samples)
        told = f"maj@{self.drawing.samples} is {share:.2f} on {len(lessons)} examples"
        if share < 0.5:
            raise InputError(
                f"{told}, below 0.50: the majority is mostly wrong, and learning from it would spread its mistakes",
                where=self.model.title,
                fix="Teach the task first (--objective likelihood), or set reward=metric",
            )
        progress.message(f"{told}, so the majority is mostly right")

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        import torch

        drawn = self._drawn(step)
        # What no advantage moves has no gradient; it still counts among the tokens, as in TRL.
        known = [place for place in range(len(drawn.samples)) if drawn.rewards[place].isfinite()]
        moves = [p for p in known if drawn.advantages[p] or self.objective.needs_reference]
        tokens = sum(len(drawn.samples[place].tokens) for place in known)
        losses: dict[int, float] = {}
        apart: dict[int, float] = {}
        total = 0.0
        with self.stepping(step):
            for batch in sample_batches(self.model, [drawn.samples[p] for p in moves], self.size) if moves else []:
                places = [moves[number] for number in batch.numbers]
                reference = self._logs(self.reference, batch) if self._compares else None
                policy = self._logs(self.model, batch)
                before = torch.cat([drawn.drawn[p] for p in places]) if drawn.drawn else policy.detach()
                advantages = drawn.advantages[places].to(policy.device)[batch.owners.to(policy.device)]
                found = self.objective.losses(RolloutLikelihoods(policy, before, reference, advantages))
                share = found.sum() / tokens
                share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
                losses |= zip(places, batch.means(found.detach()).tolist(), strict=True)
                if reference is not None:
                    kl = drawn_divergences(policy.detach(), reference)
                    apart |= zip(places, batch.means(kl).tolist(), strict=True)
        rows = []
        for place, sample in enumerate(drawn.samples):
            numbers = {"length": float(len(sample.tokens))}
            if place in set(known):
                numbers["reward"] = float(drawn.rewards[place])
            if place in apart:
                numbers["kl"] = apart[place]
            kept, lesson = bool(drawn.advantages[place]), sample.lesson
            rows.append(ExampleRow(lesson.task.name, lesson.example.key, losses.get(place, 0.0), kept, numbers))
        return total, rows

    def _drawn(self, step: int) -> _Drawn:
        """The samples of a step: drawn now, or those that a few steps share."""
        first = step - step % self.drawing.iterations
        if self._last is None or self._last.step != first:
            if step != first:
                raise AssertionError(f"step {step} goes on with samples of step {first}, which are not there")
            self._last = self._draw(first)
        return self._last

    def _draw(self, step: int) -> _Drawn:
        import torch

        ask = self.drawing
        lessons = self.lessons.at(step // ask.iterations, self.recipe.batch)
        samples = draw_samples(self.model, lessons, ask.samples, ask.temperature, seed=self.recipe.seed, step=step)
        found, why = self.rewards.of(samples, ask.samples)
        failed = sum(value != value for value in found)
        if failed > MOST_FAILED * len(samples):
            raise InputError(
                f"the reward failed for {failed} of the {len(samples)} samples of step {step + 1} ({why})",
                where="reward",
                fix="Correct the reward or the metric, then run the same command: it goes on",
            )
        rewards = torch.tensor(found)
        advantages = self.objective.advantages(rewards.reshape(-1, ask.samples)).reshape(-1)
        drawn: dict[int, torch.Tensor] = {}
        if ask.iterations > 1:
            with torch.no_grad():
                for batch in sample_batches(self.model, samples, self.size):
                    drawn |= zip(batch.numbers, batch.parts(self._logs(self.model, batch)), strict=True)
        return _Drawn(step, samples, rewards, advantages, drawn)

    def _logs(self, model: Teacher, batch: AnswerBatch) -> torch.Tensor:
        """Log-likelihood of every token of some samples, at the temperature they were drawn at."""
        logits = model.answer_logits(batch) / self.drawing.temperature
        targets = batch.targets.to(logits.device).unsqueeze(-1)
        return logits.log_softmax(-1).gather(-1, targets).squeeze(-1)

    def validate(self) -> tuple[float, float] | None:
        """One minus the mean score of what the model answers to the validation examples, and the share that is right.

        It answers as the task asks it to, and is judged by the task's metric whatever the reward.
        """
        import torch

        if not (lessons := self.lessons.valid):
            return None
        scores: list[float] = []
        with torch.no_grad():
            for task, places in by_task(lessons):
                examples = [lessons[place].example for place in places]
                scores += [one.score for one in answer(self.model, task, examples, self.size, False)]
        return 1 - sum(scores) / len(scores), sum(one == 1 for one in scores) / len(scores)
