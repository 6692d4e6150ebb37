"""A reward model that was trained on pairs as a reward, less where its members disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from genepool.errors import InputError
from genepool.training.rewards import Reward, RewardInputs, RewardOptions
from genepool.training.samples import Sample


class RewardModelRewardOptions(RewardOptions):
    """Which reward model, and how its members are heard."""

    path: str = Field(description="The folder `reward_model/` of a training with the objective reward_model.")
    uncertainty: float = Field(
        default=1.0, ge=0, description="How much of the standard deviation of its members is taken off their mean."
    )


class RewardModelReward(Reward):
    """The mean of the rewards that the members of a reward model give, minus a part of their standard deviation.

    With one member that is its reward, the preference model of reinforcement from human feedback.
    """

    name = "reward_model"
    source = (
        "Zhai et al., Uncertainty-Penalized RLHF with Diverse Reward LoRA Ensembles (UP-RLHF), arXiv:2401.00243; the "
        "weight of the deviation is ours"
    )
    when = "nobody can check answers, but pairs say which of two is better"
    Options: ClassVar[type[RewardOptions]] = RewardModelRewardOptions
    models = ("path",)

    def begin(self, inputs: RewardInputs) -> None:
        from genepool.training.reward_ensemble import RewardModelSource

        assert isinstance(self.options, RewardModelRewardOptions)
        self._judge = RewardModelSource(self.options.path).load(inputs.device, inputs.dtype)
        if self._judge.of_steps:
            raise InputError(
                "judges the steps of answers, and not whole ones",
                where=self.options.path,
                fix="Use the reward process_reward",
            )

    def score(self, samples: Sequence[Sample]) -> list[float]:
        from genepool.training.reward_factors import disagreement

        assert isinstance(self.options, RewardModelRewardOptions)
        prompts = [sample.lesson.task.prompt_for(sample.lesson.example, self._judge.model) for sample in samples]
        rewards = self._judge.rewards(prompts, [sample.text for sample in samples])
        return [float(one) for one in disagreement(rewards, self.options.uncertainty)]

    def fingerprint(self, option: str) -> str:
        from genepool.training.reward_ensemble import RewardModelSource

        assert isinstance(self.options, RewardModelRewardOptions)
        return RewardModelSource(self.options.path).fingerprint
