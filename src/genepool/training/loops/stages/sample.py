"""The stage `sample`: what the model writes to each prompt, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from genepool.errors import InputError
from genepool.tasks import LanguageModel, Task
from genepool.tasks.metrics import find_metric
from genepool.training.examples import TrainingExample
from genepool.training.loops.data import Line, WrittenAnswer
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace
from genepool.training.rewards import RewardInputs, Rewards
from genepool.training.samples import Sample, draw_samples
from genepool.training.trainers.rollouts import MOST_FAILED

if TYPE_CHECKING:
    import torch

# Prompts between two looks at the budget of tokens. Fixed: what stands together decides when the budget is spent.
_AT_ONCE = 16


class SamplingOptions(StageOptions):
    """How many answers are drawn, and how they are judged."""

    temperature: float = Field(default=1.0, gt=0, le=100, description="At which tokens are drawn.")
    reward: str | dict[str, float | dict[str, Any]] = Field(
        default="metric", description="A reward, or several with their weights or options, as for the objective grpo."
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="Go on to further prompts until this many tokens were generated; null: all prompts.",
    )


class SampleOptions(SamplingOptions):
    """Options of `sample`."""

    of: str = Field(default="prompts", description="Lines whose prompts are answered.")
    to: str = Field(default="samples", description="Name of the lines that it writes.")
    samples: int = Field(default=8, ge=1, le=4096, description="Answers to each prompt.")


class SampleStage(Stage):
    """Draws answers to each prompt from the model as it is now, and rewards each."""

    name = "sample"
    source = "drawn by (seed, round, example, sample)"
    when = "the model writes its own data"
    Options: ClassVar[type[StageOptions]] = SampleOptions
    options: SampleOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def check(self, loop: Loop, tasks: Mapping[str, Task]) -> None:
        check_rewarded(self.options.reward, tasks)

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        lines = place.read(ask.of)
        model = place.load(place.model)
        judge = Judge(ask.reward, place.tasks, model, place.loop.dtype)
        found: list[Line] = []
        tokens = 0
        for start in range(0, len(lines), _AT_ONCE):
            part = lines[start : start + _AT_ONCE]
            lessons = [TrainingExample(place.tasks[line.task], line.example) for line in part]
            drawn = draw_samples(model, lessons, ask.samples, ask.temperature, seed=place.seed, step=0)
            tokens += sum(len(one.tokens) for one in drawn)
            found += judge.judged(part, drawn, ask.samples)
            if ask.tokens is not None and tokens >= ask.tokens:
                break
        told = {**judge.check_failed(), "prompts": len(found), **described(found)}
        return Done({ask.to: found}, told, tokens, labels=judge.labels)


class Judge:
    """Rewards samples, and counts on which known answers that looked.

    Args:
        reward: one, or several with their weights.
        tasks: whose examples are answered.
        model: who writes; rewards that compare texts read them by it.
        dtype: in what other models compute that rewards ask.

    Attributes:
        labels: of the known answers that were looked at.
    """

    def __init__(
        self, reward: str | Mapping[str, Any], tasks: Mapping[str, Task], model: LanguageModel, dtype: str
    ) -> None:
        self._rewards = Rewards(reward)

        def embed(texts: Sequence[str]) -> list[torch.Tensor]:
            return [layers[-1] for layers in model.hidden_states(list(texts))]

        self._rewards.begin(RewardInputs(embed, str(model.device), dtype))
        self._tasks = tasks
        self._looks = self._rewards.reads_answers
        self._given = self._failed = 0
        self._why = ""
        self.labels: set[str] = set()

    def judged(self, lines: list[Line], drawn: list[Sample], group: int) -> list[Line]:
        """The lines with what was written to each.

        Args:
            lines: whose prompts were answered.
            drawn: `group` samples of the first prompt, then of the next.
            group: samples of each prompt.

        Raises:
            InputError: an answer is to be compared with a known one, and none is known.
        """
        found, why = self._rewards.of(drawn, group)
        self._given += len(found)
        self._failed += sum(map(math.isnan, found))
        self._why = self._why or why
        answered = []
        for place, line in enumerate(lines):
            if self._looks:
                if line.own:
                    raise InputError(
                        "the answer to a prompt that a model wrote is not known, so the metric cannot judge it",
                        where="reward",
                        fix="Use a reward that needs no answer, such as majority",
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
    """The mean reward of all samples, and of the best of each prompt."""
    groups = [line.rewards for line in lines if line.rewards]
    if not groups:
        return {}
    every = [reward for group in groups for reward in group]
    return {"reward": sum(every) / len(every), "best": sum(map(max, groups)) / len(groups)}


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
