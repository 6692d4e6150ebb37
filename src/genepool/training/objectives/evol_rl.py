"""EVOL-RL: the majority selects, novelty varies; learning from prompts whose answers nobody knows."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from genepool.training.objectives import ObjectiveOptions
from genepool.training.objectives.grpo import Grpo, GrpoOptions


class EvolRlOptions(GrpoOptions):
    """Those of `grpo` with other defaults."""

    samples: int = Field(default=64, ge=2, le=4096, description="Samples of each prompt, which vote.")
    trained: int | None = Field(
        default=32, ge=1, description="The first N samples of each prompt are learned from; null: all are."
    )
    reward: str | dict[str, float | dict[str, Any]] = Field(
        default="novelty", description="As for grpo, such as {novelty: {after: '='}}."
    )
    clip_high: float | None = Field(
        default=0.28, gt=0, lt=100, description="How far the ratio of likelihoods may rise above 1 with a gain."
    )
    kl: float = Field(default=0.001, ge=0, description="Weight of the divergence from the model as it began.")
    entropy: float = Field(
        default=0.003, ge=0, description="Weight of the entropy of every prediction, which is raised."
    )


class EvolRl(Grpo):
    """The loss of `grpo`, clipped less upwards and with entropy, where samples vote and novel ones gain more.

    All samples of a prompt vote for its answer and are compared with each other, and the first half is learned from.
    """

    name = "evol_rl"
    source = (
        "Zhou et al., Evolving Language Models without Labels, arXiv:2509.15194: entropy 0.003; the authors' code: 64 "
        "votes of which 32 are trained, clip 0.2 and 0.28, kl 0.001"
    )
    when = "right answers are not known, the model is mostly right, and samples should stay different"
    Options: ClassVar[type[ObjectiveOptions]] = EvolRlOptions
