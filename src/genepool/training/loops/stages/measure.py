"""The stage `measure`: how good the model is now."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from genepool.tasks.answering import answer
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.training.loops.data import Line, WrittenAnswer, lines_of
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace


class MeasureOptions(StageOptions):
    """Options of `measure`."""

    split: str = Field(default="valid", description="Which examples of the tasks are asked.")
    count: int | None = Field(default=256, ge=1, description="Of each task, at most; null: all.")
    others: int = Field(
        default=64, ge=0, description="Examples of each task that must not be forgotten, at most; 0: none are asked."
    )
    to: str = Field(default="measured", description="Name of the lines that it writes.")


class Measure(Stage):
    """Asks the model the examples of a split, of the tasks and of those not to be forgotten, and keeps every answer."""

    name = "measure"
    source = "the task's own metric"
    when = "the score after each round is to be seen"
    Options: ClassVar[type[StageOptions]] = MeasureOptions
    options: MeasureOptions

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def run(self, place: StagePlace) -> Done:
        import torch

        model = place.load(place.model)
        ask = self.options
        found: list[Line] = []
        told: dict[str, float] = {}
        asked = [(name, task, lines_of(task, ask.split)[: ask.count]) for name, task in place.tasks.items()]
        # What nobody named as a task to learn may lack the split.
        beside = [(name, task, task.splits.get(ask.split, ())[: ask.others]) for name, task in place.others.items()]
        asked += [(name, task, [Line(name, one) for one in examples]) for name, task, examples in beside if examples]
        with torch.inference_mode():
            for name, task, lines in asked:
                outcomes = answer(model, task, [line.example for line in lines], DEFAULT_BATCH, True)
                told[name] = sum(one.score for one in outcomes) / len(outcomes)
                for line, one in zip(lines, outcomes, strict=True):
                    found.append(Line(name, line.example, (WrittenAnswer(one.output or "", 0, one.score),)))
        return Done({ask.to: found}, told)
