"""Merging as a learner: every task is learned by itself, and what all of them trained is merged after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from genepool.errors import InputError, nearest
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

    from genepool.weights import Weights


class MergingOptions(LearnerOptions):
    """Options of `merging`."""

    method: str = Field(default="ties", description="The merge method: `genepool methods` lists them.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Its parameters, as a recipe has them; its defaults otherwise."
    )
    start: Literal["base", "last"] = Field(
        default="base",
        description="What each task begins with: the base (task arithmetic), or what the task before left (as MagMax, "
        "Marczak et al., arXiv:2407.06322, does).",
    )

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        from genepool.merging import all_methods

        if value not in all_methods():
            raise ValueError(f"there is no merge method '{value}'. {nearest(value, all_methods())}")
        return value


class Merging(TaskLearner):
    """After each task the model is a merge of the base with what every task so far trained.

    After the first task it is what that task trained. The memory are these results.
    """

    name = "merging"
    source = "any merge method of genepool, on the results of the tasks"
    when = "a result may be kept of every task, and nothing is to be learned beside plain training"
    Options: ClassVar[type[LearnerOptions]] = MergingOptions
    options: MergingOptions

    def begins_with(self, stages: Sequence[Callable[[Sequence[str]], torch.Tensor]]) -> int:
        return 0 if self.options.start == "base" else super().begins_with(stages)

    @property
    def keeps_results(self) -> bool:
        return True

    def combined(self, base: str, results: Sequence[Path]) -> Weights | None:
        from genepool.merging import parse_recipe, plan_merge

        if len(results) < 2:
            return None
        models = [f"{base}+{one}" for one in results]
        told = {"genepool": 1, "method": self.options.method, "base": base, "models": models}
        try:
            return plan_merge(parse_recipe({**told, "parameters": self.options.parameters})).weights()
        except InputError as error:
            raise InputError(error.what, where=f"--learner merging: {error.where}", fix=error.fix) from None
