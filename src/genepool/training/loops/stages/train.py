"""The stage `train`: a training on what the stages before it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.tasks import Task
from genepool.training.folder import JOURNAL_FILE, read_result
from genepool.training.journal import Journal
from genepool.training.loops.data import Line, write_tasks
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace, StagePlan
from genepool.training.objectives.reward_model import RewardModelObjective
from genepool.training.opened_training import OpenedTraining, check_named
from genepool.training.recipe import Average, Training
from genepool.training.rollout_objective import RolloutObjective
from genepool.training.run import Run


class TrainStageOptions(StageOptions):
    """Options of `train`; what is null is said by the loop's `training`, or is the default of a training file."""

    of: str | None = Field(
        default="lessons", description="Lines that are learned from; null: the training examples of the tasks."
    )
    start: Literal["parent", "base"] = Field(
        default="parent",
        description="Whom it trains: the model as the stages before left it, which is also the reference of a "
        "preference, or the base that the loop began with.",
    )
    objective: str | None = Field(default=None, description="What a step minimises; see the training files.")
    options: dict[str, Any] | None = Field(default=None, description="Options of the objective.")
    teacher: str | None = Field(
        default=None, description="The model whose predictions the objective compares with; `base` or `parent`, too."
    )
    steps: int | None = Field(default=None, ge=1, description="Optimiser steps.")
    batch: int | None = Field(default=None, ge=1, description="Examples in a step.")
    learning_rate: float | None = Field(default=None, gt=0, description="The largest learning rate.")
    shares: dict[str, float] | None = Field(
        default=None, description="How likely an example is one of each task, as weights by the tasks' names."
    )
    portions: dict[str, float] | None = Field(
        default=None, description="The part of a task's training examples that is used, by the tasks' names."
    )
    average: Average | None = Field(default=None, description="A running mean of the weights, which is the result.")


class TrainStage(Stage):
    """Trains the model by any objective; without validation examples, its last state is the result."""

    name = "train"
    source = "a training like any other: every step is on record, and `genepool verify-run` repeats it"
    when = "the model learns what the stages before it found"
    resumes = True
    trains = True
    Options: ClassVar[type[StageOptions]] = TrainStageOptions
    options: TrainStageOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.options.of is None else (self.options.of,)

    def check(self, loop: Loop, tasks: Mapping[str, Task]) -> None:
        recipe = self.training(loop)
        if isinstance(recipe.made_objective(), RewardModelObjective):
            raise InputError(
                "trains a reward model, which writes nothing, so that no stage could go on with it",
                where="train.objective",
                fix="Train it by itself, and name its folder in a `reward` of the loop",
            )
        # Which tasks other lines will be of is known when they are written.
        if self.options.of is None:
            check_named(recipe, tasks)

    def _recipe(self, loop: Loop, **known: Any) -> Training:
        keys = ("objective", "options", "steps", "batch", "learning_rate", "shares", "portions", "average")
        own = {key: value for key in keys if (value := getattr(self.options, key)) is not None}
        if self.options.teacher is None:
            known.pop("teacher", None)
        return loop.training_of(**known, **own)

    def planned(self, loop: Loop, lines: Mapping[str, int]) -> StagePlan:
        return StagePlan(steps=self.training(loop).steps)

    def training(self, loop: Loop) -> Training:
        """The training, on the tasks' own examples instead of what earlier stages will have written.

        Raises:
            InputError: a value is wrong.
        """
        teacher = loop.base if self.options.teacher in ("base", "parent") else self.options.teacher
        return self._recipe(loop, base=loop.base, tasks=loop.tasks, seed=loop.seed, teacher=teacher)

    def run(self, place: StagePlace) -> Done:
        ask, loop = self.options, place.loop
        if ask.of is None:
            folders, labels = [str(task) for task in loop.tasks], set()
        else:
            lines = place.read(ask.of)
            folders = [str(folder) for folder in write_tasks(place.folder / "data", lines, place.tasks)]
            labels = {line.label for line in lines if not line.own}
        named = {"base": place.base, "parent": place.model}
        recipe = self._recipe(
            loop,
            base=named[ask.start],
            tasks=folders,
            seed=place.seed,
            teacher=named.get(ask.teacher or "", ask.teacher),
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
            losses = [step.loss for step in journal.steps()]
            if ask.of is None:
                taken = journal.examples()
                taught = [(one.task.name, one.example) for one in opened.lessons.train]
                labels |= {Line(task, one).label for task, one in taught if (task, one.key) in taken}
            # Objectives that draw their own samples count them as well.
            objective = recipe.made_objective()
            tokens = journal.generated(objective.drawing.iterations) if isinstance(objective, RolloutObjective) else 0
        said = {
            "objective": recipe.objective,
            "examples": told["examples"]["train"],
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }
        return Done(
            told=said,
            tokens=tokens,
            steps=told["steps"],
            labels=labels,
            result=f"run/{told['result']}",
            fresh=ask.start == "base",
        )
