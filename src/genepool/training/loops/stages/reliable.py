"""The stage `reliable`: which pairs an estimator agrees with, drawn by how sure it is of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from genepool import staging
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.tasks import LanguageModel, Task
from genepool.training.dropout_estimates import DropoutEstimator, mutual_information
from genepool.training.folder import JOURNAL_FILE, read_result
from genepool.training.journal import Journal
from genepool.training.loops.data import Line
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace
from genepool.training.opened_training import OpenedTraining
from genepool.training.recipe import Training
from genepool.training.run import Run

#: What the estimator answers: the first or the second of two answers is better.
CHOICES = ("1", "2")
_PLACES = ("{prompt}", "{first}", "{second}")


class ReliableOptions(StageOptions):
    """Options of `reliable`."""

    of: str = Field(default="pairs", description="Lines of pairs that are drawn from.")
    known: str = Field(default="known", description="Lines of pairs that the estimator learns from.")
    to: str = Field(default="reliable", description="Name of the lines that it writes.")
    steps: int = Field(default=100, ge=1, description="Optimiser steps of the estimator.")
    dropout: float = Field(
        default=0.1, gt=0, lt=1, description="How likely an input of the estimator's factors is left out."
    )
    passes: int = Field(default=10, ge=2, le=1000, description="Draws of dropout.")
    easy: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Pairs drawn by 1 - BALD, as a part of those that the estimator agrees with.",
    )
    hard: float = Field(default=0.5, ge=0, le=1, description="Pairs drawn by BALD, as a part of the same.")
    keep_known: bool = Field(default=True, description="Write the known pairs as well.")
    template: str = Field(
        default="Q: {prompt}\n\nResponse #1: {first}\n\nResponse #2: {second}\n\nBetter: ",
        description="What the estimator reads; it answers with 1 or 2.",
    )

    @field_validator("template")
    @classmethod
    def _whole(cls, value: str) -> str:
        if missing := [place for place in _PLACES if place not in value]:
            raise ValueError(f"lacks {missing[0]}. Write {', '.join(_PLACES)} into it")
        return value


class Reliable(Stage):
    """Draws easy and hard pairs from those whose better side an estimator with dropout confirms.

    The estimator is an adapter of the loop's base. It learns from the known pairs which of two answers is better, in
    both orders. Then it is asked for each pair under several draws of dropout. A pair is left out where its mean answer
    is that the rejected side is better. Of the others, a part is drawn without replacement with a chance of 1 - BALD
    (easy), and a part with a chance of BALD (hard); a pair that is drawn twice counts once.
    """

    name = "reliable"
    source = (
        "Wang et al., Self-Evolutionary Large Language Models through Uncertainty-Enhanced Preference Optimization, "
        "arXiv:2409.11212: dropout 0.1, 10 passes and parts of 0.5 as in their code; their estimator has a head of two "
        "classes, this one writes 1 or 2"
    )
    when = "pairs that a reward made may be the wrong way round"
    resumes = True
    # The estimator's factors are put into the base.
    alters = True
    Options: ClassVar[type[StageOptions]] = ReliableOptions
    options: ReliableOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return self.options.of, self.options.known

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to,)

    def check(self, loop: Loop, tasks: Mapping[str, Task]) -> None:
        if not self.options.easy and not self.options.hard:
            raise InputError("easy and hard are both 0, so no pair is drawn", where="reliable", fix="Set one above 0")

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        pairs = [line for line in place.read(ask.of) if line.example.rejected]
        known = [line for line in place.read(ask.known) if line.example.rejected]
        for name, lines in ((ask.of, pairs), (ask.known, known)):
            if not lines:
                raise InputError(f"'{name}' holds no pairs", where=place.folder, fix="Put a stage `pair` before it")
        adapter, steps = self._estimator(place, known)
        model = place.load(place.base)
        assert isinstance(model, LanguageModel)
        prompts = [self._asked(line, first_is_chosen=True) for line in pairs]
        shares = DropoutEstimator(model, adapter, ask.dropout).shares(prompts, CHOICES, ask.passes, place.seed)
        agreed = np.flatnonzero(shares.mean(0).argmax(-1) == 0)
        unsure = mutual_information(shares)
        if not len(agreed):
            raise InputError(
                f"the estimator agrees with none of the {len(pairs)} pairs",
                where=place.folder,
                fix="Give it more known pairs or `steps`, or improve the reward",
            )
        easy = drawn(agreed, 1 - unsure[agreed], ask.easy, place.seed, "easy")
        hard = drawn(agreed, unsure[agreed], ask.hard, place.seed, "hard")
        chosen = [pairs[at] for at in sorted({*easy, *hard})]
        kept = known if ask.keep_known else []
        told = {
            "pairs": len(pairs),
            "agreed": len(agreed),
            "easy": len(easy),
            "hard": len(hard),
            "chosen": len(chosen),
            "known": len(kept),
            "bald": float(unsure.mean()),
        }
        labels = {line.label for line in known if not line.own}
        return Done({ask.to: [*kept, *chosen]}, told, steps=steps, labels=labels)

    def _asked(self, line: Line, *, first_is_chosen: bool) -> str:
        """What the estimator reads of a pair."""
        one = line.example
        sides = (one.answer, one.rejected[0]) if first_is_chosen else (one.rejected[0], one.answer)
        values = dict(zip(_PLACES, (one.prompt, *sides), strict=True))
        # In one pass: what a model wrote may look like a place, and must not be filled in.
        return re.sub("|".join(map(re.escape, _PLACES)), lambda found: values[found[0]], self.options.template)

    def _estimator(self, place: StagePlace, known: Sequence[Line]) -> tuple[Path, int]:
        """The folder of the adapter, trained on both orders of every known pair, and the steps that took."""
        ask, loop = self.options, place.loop
        task = place.folder / "data" / "comparisons"
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(known, 1):
            for turned, choice in enumerate(CHOICES):
                rows.append(
                    {
                        "id": f"{number}.{choice}",
                        "prompt": self._asked(line, first_is_chosen=not turned),
                        "answer": choice,
                    }
                )
        with staging.staged_folder(task, overwrite=True) as unfinished:
            (unfinished / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            (unfinished / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 2\n", encoding="utf-8")
        recipe: Training = loop.training_of(
            base=place.base,
            tasks=[str(task)],
            seed=place.seed,
            steps=ask.steps,
            objective="likelihood",
            options={},
            teacher=None,
            shares=None,
            portions=None,
            form="lora",
            lora=loop.lora.model_copy(update={"dropout": ask.dropout}),
        )
        out = place.folder / "run"
        out.mkdir(exist_ok=True)
        opened = OpenedTraining.open(recipe, others=False, trusted=place.trusted, allow_pickle=place.allow_pickle)
        with Journal(out / JOURNAL_FILE) as journal:
            run = Run(opened, out, journal, device=place.device)
            run.begin()
            told = read_result(out)
            if told is None:
                run.train()
                told = run.finish_unmeasured()
        return out / told["result"], told["steps"]


def drawn(places: NDArray[np.intp], weights: NDArray[np.float64], part: float, seed: int, purpose: str) -> list[int]:
    """A part of some places, without replacement, each with a chance in proportion to its weight.

    Args:
        places: what is drawn from.
        weights: 0 or more each.
        part: of the places.
        seed, purpose: what the draw belongs to.
    """
    # A pair of weight 0 is drawn only where no others are left.
    chances = np.maximum(weights, 0) + 1e-12
    count = int(len(places) * part)
    found = numpy_generator(seed, "reliable", purpose).choice(
        len(places), size=count, replace=False, p=chances / chances.sum()
    )
    return [int(places[at]) for at in found]
