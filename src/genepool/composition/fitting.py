"""Learning the coefficients of a merge by gradient: the loop that every composer of that kind shares.

A step takes the loss of some inputs of every task and its gradient with respect to the coefficients (`gradient`, or
`branches` for LoRA skills), and moves what these are made of (`steps`). Held-out inputs tell when to stop. What is
needed to go on is kept after every look at them, so a fit that was stopped goes on to the same bits. Uses `inputs`,
`residence`, training and staging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool import progress
from genepool.composition.branches import BranchedNetwork
from genepool.composition.coefficients import CoefficientLayout, Parametrisation
from genepool.composition.composer import ComposerOptions
from genepool.composition.gradient import MergedNetwork
from genepool.composition.inputs import TaskInputs, labelled_inputs, own_answers
from genepool.composition.kept_fit import HeldOutLooks, KeptFit
from genepool.composition.residence import Residence, Way, plan_residence
from genepool.composition.skill_set import SkillSet
from genepool.composition.steps import CoefficientSteps, FusedSteps, WholeSteps
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch
from genepool.threads import torch_threads
from genepool.training import Diverged, Optimisation, TargetObjective, fit, target_objective
from genepool.training.fit import Step
from genepool.training.run import sensible_threads
from genepool.weights import Change

if TYPE_CHECKING:
    import torch

    from genepool.composition.inputs import RecordedPredictions
    from genepool.composition.steps import Project

#: What a step minimises, as users call it -> the objective in `genepool.training.objectives`. To match is the distance
#: to what each skill itself predicts on inputs of its own task.
OBJECTIVES = {"match": "distance", "entropy": "entropy", "infomax": "infomax", "likelihood": "likelihood"}
ObjectiveName = Literal["match", "entropy", "infomax", "likelihood"]


class FitOptions(ComposerOptions):
    """What every fit of coefficients can be told."""

    objective: ObjectiveName = Field(
        default="match",
        description="What a step minimises: match (the distance to what each skill predicts on its own task), entropy "
        "or infomax, which need no labels, or likelihood (of the right answers).",
    )
    steps: int = Field(default=300, ge=1, le=10**6, description="Steps, at most.")
    learning_rate: float = Field(default=0.01, gt=0, description="The step size of Adam.")
    batch: int = Field(default=16, ge=1, le=10**5, description="Inputs of each task in a step, at most.")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Inputs computed at once, so that they fit in memory, and whose mean prediction infomax takes; "
        "null: those of a task.",
    )
    every: int = Field(default=25, ge=1, description="Steps between two looks at the held-out inputs.")
    patience: int = Field(
        default=2, ge=0, description="Stop after this many looks in a row without a lower loss; 0 never stops early."
    )
    check_inputs: bool = Field(
        default=True, description="Refuse inputs on which a skill always answers alike; only without labels."
    )


@dataclass(frozen=True)
class FittedCoefficients:
    """What a fit of coefficients learned.

    Attributes:
        learned: the numbers that the coefficients are made of, by name.
        coefficients: shape (skills, tensors, parts).
        record: how it was fitted, as plain data.
    """

    learned: Mapping[str, torch.Tensor]
    coefficients: torch.Tensor
    record: Mapping[str, Any]


def plan_fit(
    skills: SkillSet,
    parametrisation: Parametrisation,
    layout: CoefficientLayout,
    optimisation: Optimisation,
    *,
    dtype: str = "float32",
    changes: Sequence[Change] | None = None,
    products: bool = True,
    before: Mapping[str, Any] | None = None,
) -> Residence:
    """What a fit holds, and how it takes gradients; see `plan_residence`.

    A tensor moves in the backward pass where its coefficients depend on nothing else, and no norm of all gradients
    clips them. LoRA skills run beside the base where a coefficient scales a tensor, or a row of one.

    Args:
        skills: the base and the skills.
        parametrisation: what the coefficients are made of.
        layout: the coefficients.
        optimisation: of the steps.
        dtype: what the network computes in.
        changes: what the skills' changes were made into; the changes themselves when None.
        products: whether changes that are products of factors are composed as they are.
        before: what was decided when the fit began.

    Raises:
        InputError: not even the network and one gradient fit; with the figures.
    """
    alone = parametrisation.by_tensor() is not None and not optimisation.clip
    way: Way = "fused" if alone else "whole"
    beside = products and (layout.parts == 1 or layout.by_rows)
    return plan_residence(skills, dtype=dtype, changes=changes, way=way, beside=beside, before=before)


class CoefficientFit:
    """One fit of coefficients.

    Args:
        world: the skills and the tasks.
        parametrisation: what the coefficients are made of.
        layout: the coefficients.
        options: how it is fitted.
        named: what decides the result beside the world and the options, as plain data: the composer and its options.
        optimisation: of the steps; Adam at a constant rate, without decay and clipping, when None.
        project: changes what is learned in place after every step, entry by entry.
        signs: by task, what its loss is multiplied by; 1 for those that are not there.
        least: what a state must keep of the share that the control tasks, those with a sign above 0, predicted right at
            the start, to be used; 0 where nothing is to be kept.
        changes: what the skills' changes were made into; the changes themselves when None.
    """

    def __init__(
        self,
        world: World,
        parametrisation: Parametrisation,
        layout: CoefficientLayout,
        options: FitOptions,
        named: Mapping[str, Any],
        *,
        optimisation: Optimisation | None = None,
        project: Project | None = None,
        signs: Mapping[str, float] | None = None,
        least: float = 0.0,
        changes: Sequence[Change] | None = None,
    ) -> None:
        self._world, self._parametrisation, self._layout, self._options = world, parametrisation, layout, options
        self._named, self._project, self._signs, self._changes = named, project, dict(signs or {}), changes
        self._least = least
        self._objective = target_objective(OBJECTIVES[options.objective])
        self._optimisation = optimisation or Optimisation(
            options.steps, options.learning_rate, shape="constant", clip=0.0
        )

    def run(self) -> FittedCoefficients:
        """Fits, or goes on with a fit that was stopped.

        Raises:
            InputError: the examples are of no use, the skills do not fit into memory, or the first loss is no number.
            KeyboardInterrupt: Ctrl-C; the same call goes on.
        """
        with torch_threads(sensible_threads(self._world.skills.base)):
            return self._run()

    def _run(self) -> FittedCoefficients:
        plan = self._plan(products=self._changes is None)
        progress.message(plan.text())
        inputs = self._inputs()
        beside = plan.way == "branches"
        fitted = self._fit_beside(inputs) if beside else self._fit_merged(plan, inputs)
        self._world.network.assign(self._world.skills.base)
        return fitted

    def _plan(self, *, products: bool, before: Mapping[str, Any] | None = None) -> Residence:
        return plan_fit(
            self._world.skills,
            self._parametrisation,
            self._layout,
            self._optimisation,
            dtype=self._world.dtype,
            changes=self._changes,
            products=products,
            before=before,
        )

    def _fit_beside(self, inputs: Sequence[TaskInputs]) -> FittedCoefficients:
        """The fit with skills that run beside the base, unless the network proves to use a weight in another way."""
        world = self._world
        branched = BranchedNetwork(world.network, world.skills.vectors(), self._layout)
        with branched.adding():
            branched.put(self._parametrisation.coefficients(self._parametrisation.start()))
            unlike = branched.unlike(self._losses(inputs[0], 0)[0])
            if not unlike:
                steps = WholeSteps(branched, self._parametrisation, self._optimisation, self._project)
                return self._fit(steps, inputs, self._kept(inputs, "branches"), "branches")
        world.network.assign(world.skills.base)
        plan = self._plan(products=False)
        progress.message(f"the network does not use {unlike} by its layer alone, so the factors are multiplied out")
        progress.message(plan.text())
        return self._fit_merged(plan, inputs)

    def _fit_merged(self, plan: Residence, inputs: Sequence[TaskInputs]) -> FittedCoefficients:
        """The fit with the skills merged into the weights."""
        world, kept = self._world, self._kept(inputs, plan.way)
        if noted := kept.noted():
            plan = self._plan(products=False, before=noted)
        kept.notes = plan.decisions()
        held = [number for number, name in enumerate(world.skills.names) if name in plan.skills]
        with progress.bar("reading the skills"):
            vectors = world.skills.vectors(held, self._changes)
        merged = MergedNetwork(world.network, vectors, self._layout, add_up=plan.add_up, at_hand=plan.at_hand)
        own = self._parametrisation.by_tensor()
        steps: CoefficientSteps
        if plan.way == "fused" and own is not None:
            steps = FusedSteps(merged, self._parametrisation, own, self._optimisation, self._project)
        else:
            steps = WholeSteps(merged, self._parametrisation, self._optimisation, self._project)
        return self._fit(steps, inputs, kept, plan.way)

    def _kept(self, inputs: Sequence[TaskInputs], way: Way | None) -> KeptFit:
        world = self._world
        tasks = [one.digest() for one in inputs]
        return KeptFit(world.work, {**world.identity(), **self._named, "gradients": way, "tasks": tasks})

    def _fit(
        self, steps: CoefficientSteps, inputs: Sequence[TaskInputs], kept: KeptFit, way: Way | None
    ) -> FittedCoefficients:
        import torch

        world, options = self._world, self._options
        looks = HeldOutLooks(kept, steps, options.patience, least=self._least)
        start = looks.resume()
        stopped = ""
        with progress.bar("fitting coefficients", options.steps, "steps") as bar:
            bar.advance(start)

            def gradients(step: int) -> float:
                return steps.gradients(step, [part for task in inputs for part in self._losses(task, step)])

            def look(step: int) -> bool:
                steps.put()
                return looks.add(step, self._held_loss(inputs), self._controls_right(inputs))

            def after(step: Step) -> bool:
                looks.losses.append(step.loss)
                bar.advance()
                bar.note(f"loss {step.loss:.4f}")
                return (step.number % options.every == 0 or step.number == options.steps) and look(step.number)

            try:
                if not looks.begun:
                    look(0)
                taken = start if looks.ended else fit(steps, gradients, after, start=start)
                stopped = "held-out loss rose" if looks.ended else ""
            except Diverged as error:
                taken, stopped = error.step - 1, str(error)
                if taken < 1:
                    raise InputError(
                        f"{error} before anything was learned",
                        where=world.skills.reference,
                        fix="Check the skills with `genepool inspect`, or compute with --dtype float32",
                    ) from None
                progress.message(f"warning: {error}; the last good state is what is used")
        best = looks.best()
        record: dict[str, Any] = {
            "objective": options.objective,
            "gradients": way,
            "steps": taken,
            "best_step": looks.best_step,
            "stopped": stopped,
            "loss": looks.losses,
            "held_out": looks.history,
            "examples": {one.name: {"learn": len(one.learn), "held": len(one.held)} for one in inputs},
            "seed": world.seed,
        }
        if looks.controls:
            record["control"] = looks.controls
        if looks.controls and looks.best_step == 0:
            warning = "No state after the start was better and kept the control tasks, so nothing changed."
            record["warnings"] = [warning]
            progress.message(f"warning: {warning} Try a smaller learning_rate, or a smaller every")
        with torch.no_grad():
            coefficients = self._parametrisation.coefficients(best)
        return FittedCoefficients(best, coefficients, record)

    def _inputs(self) -> list[TaskInputs]:
        if self._options.objective == "likelihood":
            return labelled_inputs(self._world)
        self._world.check_owned()
        return own_answers(self._world, check=self._options.check_inputs)

    def _losses(self, task: TaskInputs, step: int) -> list[Callable[[], torch.Tensor]]:
        """The loss of a task in a step, in micro-batches: the mean over the inputs of the mean over their targets."""
        numbers = task.chosen(self._world.seed, step, self._options.batch)
        size = self._options.micro_batch or self._options.batch
        share = self._signs.get(task.name, 1.0) / (len(numbers) * len(self._world.tasks))
        batches = task.batches(self._world.network, numbers, size)
        return [partial(self._loss, self._objective, batch, teacher, share) for batch, teacher in batches]

    def _loss(
        self, objective: TargetObjective, batch: AnswerBatch, teacher: RecordedPredictions | None, share: float
    ) -> torch.Tensor:
        return batch.means(objective.losses(self._world.network, batch, teacher)).sum() * share

    def _held_loss(self, inputs: Sequence[TaskInputs]) -> float | None:
        """What is held out: the distance to each skill's own predictions, or the objective where labels are known.

        None where nothing is held out.
        """
        import torch

        objective = target_objective("distance") if all(one.recorded for one in inputs) else self._objective
        total, any_held = 0.0, False
        with torch.inference_mode():
            for task in inputs:
                for batch, teacher in task.batches(self._world.network, task.held, self._options.batch):
                    share = self._signs.get(task.name, 1.0) / (len(task.held) * len(inputs))
                    total += float(self._loss(objective, batch, teacher, share))
                    any_held = True
        return total if any_held else None

    def _controls_right(self, inputs: Sequence[TaskInputs]) -> float | None:
        """The mean over control tasks of the share of held-out targets that are predicted right.

        None where nothing is to be kept.

        Raises:
            InputError: a control task holds nothing out.
        """
        import torch

        if not self._least:
            return None
        controls = [task for task in inputs if self._signs.get(task.name, 1.0) > 0]
        total = 0.0
        with torch.inference_mode():
            for task in controls:
                if not task.held:
                    raise InputError(
                        "has too few examples to hold any out, so nothing tells whether it is kept",
                        where=task.name,
                        fix="Give more --examples of it",
                    )
                for batch, _ in task.batches(self._world.network, task.held, self._options.batch):
                    right = self._world.network.answer_logits(batch).argmax(-1).cpu() == batch.targets
                    total += float(batch.means(right.double()).sum()) / (len(task.held) * len(controls))
        return total
