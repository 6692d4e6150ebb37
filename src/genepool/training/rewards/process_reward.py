"""A process reward model as a reward: an answer is as good as its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from genepool.training.process_scores import By, answer_scores, check_process
from genepool.training.rewards import Reward, RewardInputs, RewardOptions
from genepool.training.samples import Sample


class ProcessRewardRewardOptions(RewardOptions):
    """Which process reward model, and how it hears the steps."""

    path: str = Field(description="The folder `reward_model/` of a training with the objective process_reward.")
    step: str = Field(default="\n", min_length=1, description="The text that ends a step.")
    by: By = Field(
        default="min",
        description="What the chances of the steps become: the smallest one, their product, the last one, or the mean.",
    )


class ProcessRewardReward(Reward):
    """What a process reward model says of the steps of each sample, as one number from 0 to 1."""

    name = "process_reward"
    source = (
        "Jiang et al., MedS3, arXiv:2501.12051: the smallest, the product or the last, as the authors' code has it; "
        "the mean is ours"
    )
    when = "answers have steps, and a process reward model says how good they are"
    Options: ClassVar[type[RewardOptions]] = ProcessRewardRewardOptions
    models = ("path",)

    def begin(self, inputs: RewardInputs) -> None:
        from genepool.training.reward_ensemble import RewardModelSource

        assert isinstance(self.options, ProcessRewardRewardOptions)
        self._judge = RewardModelSource(self.options.path).load(inputs.device, inputs.dtype)
        check_process(self._judge, self.options.path)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        assert isinstance(self.options, ProcessRewardRewardOptions)
        asked = [(sample.lesson.task, sample.lesson.example) for sample in samples]
        texts = [sample.text for sample in samples]
        return answer_scores(self._judge, asked, texts, self.options.step, self.options.by)

    def fingerprint(self, option: str) -> str:
        from genepool.training.reward_ensemble import RewardModelSource

        assert isinstance(self.options, ProcessRewardRewardOptions)
        return RewardModelSource(self.options.path).fingerprint
