"""Steps that learn from what the model itself writes, and how that is rewarded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool import progress
from genepool.errors import InputError
from genepool.tasks.answering import answer
from genepool.tasks.metrics import find_metric
from genepool.training.divergences import drawn_divergences
from genepool.training.examples import TrainingExample, by_task
from genepool.training.journal import ExampleRow
from genepool.training.rewards import RewardInputs, Rewards
from genepool.training.rewards.metric import judged
from genepool.training.rollout_objective import RolloutLikelihoods, RolloutObjective
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
class Drawn:
    """The samples of a step, which later ones may share.

    Attributes:
        step: at which they were drawn.
        samples: one prompt's after another's, without those that only voted.
        rewards, advantages: shape (samples,); a reward is NaN where it failed.
        logs: log-likelihoods of every token at drawing, by sample; empty where they are used for one step only.
        taught: lessons that are learned from their right answer, whose samples are not learned from.
        is_taught: whether each sample is one of those.
    """

    step: int
    samples: list[Sample]
    rewards: torch.Tensor
    advantages: torch.Tensor
    logs: dict[int, torch.Tensor]
    taught: list[TrainingExample]
    is_taught: list[bool]


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
        self.rewards.begin(RewardInputs(self.reference.hidden_states, str(self.model.device), self.recipe.dtype))
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
        self._last: Drawn | None = None

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
        drawn = self._drawn(step)
        with self.stepping(step):
            total, rows = self._from_samples(drawn)
            if drawn.taught:
                loss, more = self._from_right_answers(drawn.taught)
                total, rows = total + loss, rows + more
        return total, rows

    def _from_samples(self, drawn: Drawn) -> tuple[float, list[ExampleRow]]:
        """Adds the gradients of the mean loss over the tokens of samples; the loss, and a row for each sample."""
        # What no advantage moves has no gradient; it still counts among the tokens, as in TRL.
        count = len(drawn.samples)
        known = [place for place in range(count) if drawn.rewards[place].isfinite() and not drawn.is_taught[place]]
        moves = [place for place in known if drawn.advantages[place] or self.objective.moves_all]
        tokens = sum(len(drawn.samples[place].tokens) for place in known)
        losses: dict[int, float] = {}
        apart: dict[int, float] = {}
        total = 0.0
        for batch in sample_batches(self.model, [drawn.samples[p] for p in moves], self.size) if moves else []:
            places = [moves[number] for number in batch.numbers]
            likelihoods = self._likelihoods(batch, places, drawn)
            found = self.objective.losses(likelihoods)
            share = batch.means(found).sum() / len(known) if self.objective.per_sample else found.sum() / tokens
            share.backward()  # type: ignore[no-untyped-call]
            total += float(share.detach())
            losses |= zip(places, batch.means(found.detach()).tolist(), strict=True)
            if likelihoods.reference is not None:
                kl = drawn_divergences(likelihoods.policy.detach(), likelihoods.reference)
                apart |= zip(places, batch.means(kl).tolist(), strict=True)
        return total, [
            self._row(drawn, place, losses.get(place, 0.0), apart.get(place), self._is_kept(drawn, place))
            for place in range(count)
        ]

    def _likelihoods(self, batch: AnswerBatch, places: Sequence[int], drawn: Drawn) -> RolloutLikelihoods:
        """What the objective is told of a batch of samples, which stand at these places of what was drawn."""
        import torch

        reference = self._logs(self.reference, batch)[0] if self._compares else None
        policy, entropies = self._logs(self.model, batch, self.objective.needs_entropies)
        before = torch.cat([drawn.logs[place] for place in places]) if drawn.logs else policy.detach()
        advantages = drawn.advantages[list(places)].to(policy.device)[batch.owners.to(policy.device)]
        return RolloutLikelihoods(policy, before, reference, advantages, entropies)

    def _is_kept(self, drawn: Drawn, place: int) -> bool:
        """Whether a sample counts as learned from."""
        return bool(drawn.advantages[place])

    def _row(self, drawn: Drawn, place: int, loss: float, kl: float | None, kept: bool) -> ExampleRow:
        """What is recorded of a sample."""
        sample, reward = drawn.samples[place], float(drawn.rewards[place])
        numbers = {"length": float(len(sample.tokens))}
        if math.isfinite(reward):
            numbers["reward"] = reward
        if kl is not None:
            numbers["kl"] = kl
        if self.objective.teaches:
            numbers["demonstration"] = 0.0
        return ExampleRow(sample.lesson.task.name, sample.lesson.example.key, loss, kept, numbers)

    def _from_right_answers(self, lessons: Sequence[TrainingExample]) -> tuple[float, list[ExampleRow]]:
        """Adds the gradients of the mean loss over the tokens of right answers; the loss, and a row for each."""
        import torch

        encoded = self.encoded(lessons)
        tokens = sum(len(batch.targets) for batch, _ in encoded)
        rows: dict[int, ExampleRow] = {}
        total = 0.0
        for batch, places in encoded:
            policy, entropies = self._logs(self.model, batch, self.objective.needs_entropies, temperature=1.0)
            ones = torch.ones_like(policy)
            losses = self.objective.teaching_losses(RolloutLikelihoods(policy, policy, None, ones, entropies))
            share = losses.sum() / tokens
            share.backward()  # type: ignore[no-untyped-call]
            total += float(share.detach())
            means = batch.means(losses.detach()).tolist()
            for place, loss, part in zip(places, means, batch.parts(policy), strict=True):
                lesson, numbers = lessons[place], {"length": float(len(part)), "demonstration": 1.0}
                rows[place] = ExampleRow(lesson.task.name, lesson.example.key, loss, numbers=numbers)
        return total, [rows[place] for place in range(len(lessons))]

    def _drawn(self, step: int) -> Drawn:
        """The samples of a step: drawn now, or those that a few steps share."""
        first = step - step % self.drawing.iterations
        if self._last is None or self._last.step != first:
            if step != first:
                raise AssertionError(f"step {step} goes on with samples of step {first}, which are not there")
            self._last = self._draw(first)
        return self._last

    def _draw(self, step: int) -> Drawn:
        import torch

        ask = self.drawing
        lessons = self.lessons.at(step // ask.iterations, self.recipe.batch)
        voters = draw_samples(self.model, lessons, ask.samples, ask.temperature, seed=self.recipe.seed, step=step)
        found = torch.tensor(self._rewards_of(voters, step)).reshape(-1, ask.samples)
        taught = self._are_taught(voters) if self.objective.teaches else [False] * len(lessons)
        rewards = found[:, : ask.group].contiguous()
        advantages = self.objective.advantages(rewards)
        advantages[torch.tensor(taught)] = 0
        samples = [sample for number, sample in enumerate(voters) if number % ask.samples < ask.group]
        return Drawn(
            step,
            samples,
            rewards.reshape(-1),
            advantages.reshape(-1),
            self._logs_at_drawing(samples) if ask.iterations > 1 else {},
            [lesson for lesson, one in zip(lessons, taught, strict=True) if one],
            [one for one in taught for _ in range(ask.group)],
        )

    def _are_taught(self, samples: Sequence[Sample]) -> list[bool]:
        """Whether each prompt is learned from its right answer."""
        right, group = [_is_right(sample) for sample in samples], self.drawing.samples
        return [self.objective.is_taught(sum(right[at : at + group])) for at in range(0, len(right), group)]

    def _rewards_of(self, samples: Sequence[Sample], step: int) -> list[float]:
        """The reward of each sample, NaN where it failed.

        Raises:
            InputError: it failed for too many.
        """
        found, why = self.rewards.of(samples, self.drawing.samples)
        failed = sum(value != value for value in found)
        if failed > MOST_FAILED * len(samples):
            raise InputError(
                f"the reward failed for {failed} of the {len(samples)} samples of step {step + 1} ({why})",
                where="reward",
                fix="Correct the reward or the metric, then run the same command: it goes on",
            )
        return found

    def _logs_at_drawing(self, samples: Sequence[Sample]) -> dict[int, torch.Tensor]:
        """The log-likelihood of every token now, by sample."""
        import torch

        found: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for batch in sample_batches(self.model, samples, self.size):
                found |= zip(batch.numbers, batch.parts(self._logs(self.model, batch)[0]), strict=True)
        return found

    def _logs(
        self, model: Teacher, batch: AnswerBatch, entropies: bool = False, temperature: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-likelihood of every token of some samples, and where asked for the entropy of the prediction there.

        Args:
            model: who predicts.
            batch: the samples.
            entropies: whether these are asked for.
            temperature: of the prediction; None: the one that samples are drawn at.
        """
        logs = (model.answer_logits(batch) / (temperature or self.drawing.temperature)).log_softmax(-1)
        targets = batch.targets.to(logs.device).unsqueeze(-1)
        return logs.gather(-1, targets).squeeze(-1), -(logs.exp() * logs).sum(-1) if entropies else None

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


def _is_right(sample: Sample) -> bool:
    """Whether the task's metric finds a sample right; one that it cannot judge is not."""
    try:
        return judged(sample) == 1
    except Exception:
        return False
