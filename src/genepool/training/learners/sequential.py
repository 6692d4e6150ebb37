"""One task after another and nothing else: what every learner must beat."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from genepool.training.learners import LearnerOptions, TaskLearner


class SequentialOptions(LearnerOptions):
    """Options of `sequential`."""

    factors: Literal["one", "each"] = Field(
        default="one",
        description="one: all tasks train the same factors (SeqLoRA); each: every task adds factors of its own, those "
        "before it stay (IncLoRA). Wang et al., arXiv:2310.14152, section 4. Without factors it has no effect.",
    )


class Sequential(TaskLearner):
    """Goes on with the same parameters on the next task."""

    name = "sequential"
    source = "the baseline"
    when = "to see what is forgotten where nothing is done about it"
    Options: ClassVar[type[LearnerOptions]] = SequentialOptions
    options: SequentialOptions

    @property
    def fresh_factors(self) -> bool:
        return self.options.factors == "each"
