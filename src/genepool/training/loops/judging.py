"""How stages have prompts answered, and how what was written is judged. Uses the rewards and our own decoding."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.tasks import Task
from genepool.tasks.metrics import find_metric
from genepool.training.examples import TrainingExample
from genepool.training.loops.data import Line, WrittenAnswer
from genepool.training.loops.stage import StagePlace
from genepool.training.rewards import RewardInputs, Rewards
from genepool.training.samples import Sample, draw_samples, writer
from genepool.training.trainers.rollouts import MOST_FAILED

if TYPE_CHECKING:
    import torch


def answers_drawn(place: StagePlace, lines: Sequence[Line], count: int, temperature: float) -> list[Sample]:
    """What the model as it is now writes to each prompt: `count` answers to the first, then to the next.

    Args:
        place: of the stage that asks; its seed, the example and the number of the answer decide each draw.
        lines: whose prompts are answered, as their tasks ask them.
        count: answers to each.
        temperature: at which tokens are drawn.
    """
    lessons = [TrainingExample(place.tasks[line.task], line.example) for line in lines]
    return draw_samples(place.load(place.model), lessons, count, temperature, seed=place.seed, step=0)


class Judge:
    """Rewards samples, and counts on which known answers that looked.

    Args:
        reward: one, or several with their weights.
        place: of the stage; rewards that compare texts read them by its model.

    Attributes:
        labels: of the known answers that were looked at.
    """

    def __init__(self, reward: str | Mapping[str, Any], place: StagePlace) -> None:
        self._rewards = Rewards(reward)
        self._tasks = place.tasks
        able = writer(place.load(place.model))

        def embed(texts: Sequence[str]) -> list[torch.Tensor]:
            return [layers[-1] for layers in able.hidden_states(list(texts))]

        self._rewards.begin(RewardInputs(embed, str(able.device), place.loop.dtype))
        self._given = self._failed = 0
        self._why = ""
        self.labels: set[str] = set()

    def judged(self, lines: Sequence[Line], drawn: Sequence[Sample], group: int) -> list[Line]:
        """The lines with what was written to each.

        Args:
            lines: whose prompts were answered.
            drawn: `group` samples of the first prompt, then of the next.
            group: samples of each prompt.

        Raises:
            InputError: an answer is to be compared with a known one, and none is known.
        """
        # What was asked may be more than the line's own prompt, which alone says what is right.
        lessons = [TrainingExample(self._tasks[line.task], line.example) for line in lines]
        drawn = [replace(one, lesson=lessons[at // group]) for at, one in enumerate(drawn)]
        found, why = self._rewards.of(drawn, group)
        self._given += len(found)
        self._failed += sum(map(math.isnan, found))
        self._why = self._why or why
        answered = []
        for place, line in enumerate(lines):
            metric = find_metric(self._tasks[line.task].settings.metric)
            if self._rewards.reads_answers and not metric.from_prompt:
                if line.own:
                    raise InputError(
                        "the answer to a prompt that a model wrote is not known, so the metric cannot judge it",
                        where="reward",
                        fix="Use a reward that needs no answer, such as majority, or the metric countdown",
                    )
                self.labels.add(line.label)
            part = range(place * group, (place + 1) * group)
            written = [(drawn[at].text, len(drawn[at].tokens), found[at]) for at in part]
            samples = tuple(WrittenAnswer(t, n, None if math.isnan(r) else r) for t, n, r in written)
            answered.append(Line(line.task, line.example, samples, line.own))
        return answered

    def check_failed(self) -> dict[str, int]:
        """How many samples were judged, and for how many the reward failed.

        Raises:
            InputError: for more than half of them.
        """
        if self._failed > MOST_FAILED * self._given:
            raise InputError(
                f"the reward failed for {self._failed} of {self._given} samples ({self._why})",
                where="reward",
                fix="Correct the reward or the metric, then run the same command: it goes on",
            )
        return {"samples": self._given, "failed": self._failed}


def described(lines: list[Line]) -> dict[str, float]:
    """The mean reward of all samples, of the best of each prompt, and of the most frequent text of each (a vote)."""
    groups = [line.rewards for line in lines if line.rewards]
    if not groups:
        return {}
    every = [reward for group in groups for reward in group]
    votes = [vote for line in lines if (vote := voted(line)) is not None]
    means = {"reward": every, "best": list(map(max, groups)), "vote": votes}
    return {name: sum(values) / len(values) for name, values in means.items()}


def voted(line: Line) -> float | None:
    """The reward of the most frequent text among the samples; of equally frequent ones, the first."""
    judged = [one for one in line.samples if one.reward is not None]
    if not judged:
        return None
    ((text, _),) = Counter(one.text for one in judged).most_common(1)
    return next(one.reward for one in judged if one.text == text)


def check_rewarded(reward: str | Mapping[str, Any], tasks: Mapping[str, Task]) -> None:
    """Refuses a reward that there is none of, and tasks that nothing is written for.

    Raises:
        InputError: naming it.
    """
    # The models that its options name are there.
    Rewards(reward).settings()
    for task in tasks.values():
        if find_metric(task.settings.metric).needs != "text":
            raise InputError(
                "is answered by a choice, so nothing is written that could be rewarded",
                where=task.name,
                fix="Name a task whose answers are written",
            )
