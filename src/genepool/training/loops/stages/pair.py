"""The stage `pair`: a better and a worse answer to a prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.training.loops.data import Line
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace


class PairStageOptions(StageOptions):
    """Options of `pair`."""

    of: str = Field(default="samples", description="Lines whose samples are paired.")
    to: str = Field(default="pairs", description="Name of the lines that it writes.")
    chosen: Literal["best", "answer", "last"] = Field(
        default="best",
        description="The better side: the sample with the highest reward; the known answer; or the last sample, which "
        "is the refined one behind `refine`.",
    )
    rejected: Literal["worst", "first"] = Field(
        default="worst", description="The worse side: the sample with the lowest reward, or the first one."
    )
    margin: float = Field(
        default=0.0, ge=0, description="Leave out pairs whose rewards differ by this or less; a known answer has 1."
    )


class Pair(Stage):
    """Makes one pair of each prompt, of samples or of a known answer and a sample: the model's own failures."""

    name = "pair"
    source = "best against worst: Yuan et al., Self-Rewarding Language Models, arXiv:2401.10020"
    when = "the model is to prefer its good answers to its bad ones"
    Options: ClassVar[type[StageOptions]] = PairStageOptions
    options: PairStageOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def run(self, place: StagePlace) -> Done:
        lines = place.read(self.options.of)
        pairs = [pair for line in lines if (pair := self._pair(line)) is not None]
        if not pairs:
            raise InputError(
                f"of {len(lines)} prompts none has two answers whose rewards differ by more than "
                f"{self.options.margin:g}",
                where=place.folder,
                fix="Draw more samples at a higher temperature, or lower `margin`",
            )
        known = self.options.chosen == "answer"
        labels = {line.label for line in pairs} if known else set()
        return Done({self.options.to: pairs}, {"prompts": len(lines), "pairs": len(pairs)}, labels=labels)

    def _pair(self, line: Line) -> Line | None:
        ask = self.options
        # An empty answer has no tokens, and so no likelihood.
        judged = [(one.reward, one.text) for one in line.samples if one.reward is not None and one.text]
        if not judged or (ask.chosen == "answer" and line.own):
            return None
        # Of equal rewards the first counts.
        best = max(judged, key=lambda one: one[0])
        better = {"best": best, "last": judged[-1], "answer": (1.0, line.example.answer)}[ask.chosen]
        worse = judged[0] if ask.rejected == "first" else min(judged, key=lambda one: one[0])
        if better[0] - worse[0] <= ask.margin or better[1] == worse[1]:
            return None
        example = replace(line.example, answers=(better[1],), rejected=(worse[1],))
        return Line(line.task, example, own=ask.chosen != "answer")
