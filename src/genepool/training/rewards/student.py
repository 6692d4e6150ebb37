"""How much an answer teaches another model that is shown it: a teacher's examples, judged by their student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from genepool.errors import InputError
from genepool.tasks import DEFAULT_BATCH, Example, Task, open_model
from genepool.tasks.answering import answer
from genepool.tasks.models import load_as
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.training.rewards import Reward, RewardInputs, RewardOptions
from genepool.training.samples import Sample
from genepool.weights import open_weights


class StudentRewardOptions(RewardOptions):
    """Who the student is, and on what it is asked."""

    student: str = Field(description="The model that is shown an answer, and asked other questions then.")
    examples: int = Field(default=16, ge=1, description="The first N validation examples of the task are asked.")


class StudentReward(Reward):
    """The student's mean score at validation examples, with the prompt and the answer as the one example before each.

    The student is asked as the task says, with `few_shot: 1`. It never learns: what is measured is how well it follows
    an example that it sees.
    """

    name = "student"
    source = (
        "Liu et al., Aligning Teacher with Student Preferences for Tailored Training Data Generation (ARTE), "
        "arXiv:2406.19227: what a student prefers is told by its one-shot accuracy"
    )
    when = "a teacher writes training data for a student, and is to write what this student learns from"
    Options: ClassVar[type[RewardOptions]] = StudentRewardOptions
    models = ("student",)

    def begin(self, inputs: RewardInputs) -> None:
        assert isinstance(self.options, StudentRewardOptions)
        source = open_model(open_weights(self.options.student))
        self._student = load_as(LanguageModel, source, "the reward `student`", device=inputs.device, dtype=inputs.dtype)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        assert isinstance(self.options, StudentRewardOptions)
        found: dict[str, float] = {}
        for sample in samples:
            if sample.text not in found:
                found[sample.text] = self._one_shot(sample)
        return [found[sample.text] for sample in samples]

    def _one_shot(self, sample: Sample) -> float:
        assert isinstance(self.options, StudentRewardOptions)
        task, shown = sample.lesson.task, sample.lesson.example
        # Who is asked what it was just shown has nothing to follow.
        asked = [one for one in task.splits.get("valid", ()) if one.prompt != shown.prompt][: self.options.examples]
        if not asked:
            raise InputError("has no validation examples to ask the student", where=task.name, fix="Add a valid.jsonl")
        demonstration = Example("shown", shown.prompt, (sample.text,))
        settings = task.settings.model_copy(update={"few_shot": 1})
        one_shot = Task(task.name, {"train": (demonstration,), "valid": asked}, settings)
        outcomes = answer(self._student, one_shot, [replace(one, messages=()) for one in asked], DEFAULT_BATCH, False)
        return sum(one.score for one in outcomes) / len(outcomes)
