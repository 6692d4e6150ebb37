"""Training modules that stand beside frozen networks: the loop that composers of such modules share.

A step takes the loss of some inputs of every task, by gradient with respect to the modules' parameters alone. Held-out
inputs tell which state is used. What is needed to go on is kept after every look at them, so a fit that was stopped
goes on to the same bits. Uses `inputs`, `kept_fit` and training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool import progress
from genepool.composition.composer import ComposerOptions
from genepool.composition.inputs import TaskInputs, labelled_inputs
from genepool.composition.kept_fit import HeldOutLooks, KeptFit
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.threads import torch_threads
from genepool.training import Diverged, Optimisation, Optimiser, fit, target_objective
from genepool.training.fit import Step
from genepool.training.run import sensible_threads

if TYPE_CHECKING:
    import torch

    from genepool.composition.inputs import RecordedPredictions
    from genepool.tasks.answers import AnswerBatch


class ModuleFitOptions(ComposerOptions):
    """What every fit of modules can be told."""

    steps: int = Field(default=300, ge=1, le=10**6, description="Steps, at most.")
    learning_rate: float = Field(
        default=3e-3, gt=0, le=10, description="The first step size of Adam, which falls to 0 along a line."
    )
    batch: int = Field(default=16, ge=1, le=10**5, description="Inputs of each task in a step, at most.")
    micro_batch: int | None = Field(
        default=None, ge=1, description="Inputs computed at once, so that they fit in memory; null: those of a task."
    )
    every: int = Field(default=25, ge=1, description="Steps between two looks at the held-out inputs.")
    patience: int = Field(
        default=0, ge=0, description="Stop after this many looks in a row without a lower loss; 0 never stops early."
    )


def fit_modules(
    world: World,
    model: Any,
    parameters: Mapping[str, torch.nn.Parameter],
    options: ModuleFitOptions,
    named: Mapping[str, Any],
    *,
    inputs: Sequence[TaskInputs] | None = None,
    rates: Mapping[str, float] | None = None,
    asked: Callable[[str], None] = lambda _: None,
    at: Callable[[int | None], None] = lambda _: None,
    penalty: Callable[[AnswerBatch], torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Trains parameters, or goes on with a training that was stopped; they hold the best state afterwards.

    Args:
        world: the skills and the tasks.
        model: what answers, with the modules in it: a `Network`, or another `Model` whose `model` holds the modules.
        parameters: what is trained, by name; all else in the network is frozen.
        options: how.
        named: what decides the result beside the world and the options, as plain data: the composer and its options.
        inputs: what is learned from; the likelihood of the right answers of the world's examples when None. Where
            predictions were recorded, the distance to them is what a step minimises.
        rates: the part of the learning rate of some parameters, by name; 1 for all others.
        asked: called with the name of a task before it is asked.
        at: called with the number of a step before its gradients are taken, and with None before the held-out inputs.
        penalty: what is added to the mean loss of a batch in a step; it is left out of the looks at held-out inputs.

    Returns:
        How it was fitted, as plain data.

    Raises:
        InputError: the examples are of no use, or the first loss is no number.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    with torch_threads(sensible_threads(world.skills.base)):
        given = labelled_inputs(world) if inputs is None else inputs
        return _ModuleFit(world, model, parameters, options, named, given, rates, asked, at, penalty).run()


class _ModuleFit:
    """One such fit; arguments as for `fit_modules`."""

    def __init__(
        self,
        world: World,
        model: Any,
        parameters: Mapping[str, torch.nn.Parameter],
        options: ModuleFitOptions,
        named: Mapping[str, Any],
        inputs: Sequence[TaskInputs],
        rates: Mapping[str, float] | None,
        asked: Callable[[str], None],
        at: Callable[[int | None], None],
        penalty: Callable[[AnswerBatch], torch.Tensor] | None,
    ) -> None:
        self._world, self._model, self._parameters, self._options = world, model, parameters, options
        self._inputs, self._asked, self._at, self._penalty = inputs, asked, at, penalty
        recorded = all(one.recorded for one in inputs)
        self._objective = target_objective("distance" if recorded else "likelihood")
        self._optimiser = Optimiser(parameters, Optimisation(options.steps, options.learning_rate), rates)
        tasks = [one.digest() for one in inputs]
        self._looks = HeldOutLooks(
            KeptFit(world.work, {**world.identity(), **named, "tasks": tasks}), self._optimiser, options.patience
        )

    def run(self) -> dict[str, Any]:
        """Trains."""
        import torch

        options, looks = self._options, self._looks
        with _frozen_but(self._model, self._parameters), progress.bar("training", options.steps, "steps") as bar:
            start, stopped = looks.resume(), ""
            bar.advance(start)

            def after(step: Step) -> bool:
                looks.losses.append(step.loss)
                bar.advance()
                bar.note(f"loss {step.loss:.4f}")
                if step.number % options.every and step.number != options.steps:
                    return False
                return looks.add(step.number, self._held_loss())

            try:
                if not looks.begun:
                    looks.add(0, self._held_loss())
                taken = start if looks.ended else fit(self._optimiser, self._gradients, after, start=start)
                stopped = "held-out loss rose" if looks.ended else ""
            except Diverged as error:
                taken, stopped = error.step - 1, str(error)
                if taken < 1:
                    broken = "Check the base and the skills with `genepool inspect`"
                    raise InputError(
                        f"{error} before anything was learned",
                        where=self._world.skills.reference,
                        fix=f"{'Give a smaller --set learning_rate' if error.step else broken}, or compute with "
                        "--dtype float32",
                    ) from None
                progress.message(f"warning: {error}; the last good state is what is used")
        best = looks.best()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(best[name])
        return {
            "steps": taken,
            "best_step": looks.best_step,
            "stopped": stopped,
            "loss": looks.losses,
            "held_out": looks.history,
            "examples": {one.name: {"learn": len(one.learn), "held": len(one.held)} for one in self._inputs},
            "trained_numbers": sum(parameter.numel() for parameter in self._parameters.values()),
            "seed": self._world.seed,
        }

    def _gradients(self, step: int) -> float:
        import torch

        total = 0.0
        size = self._options.micro_batch or self._options.batch
        self._at(step)
        with torch.enable_grad():
            for task in self._inputs:
                self._asked(task.name)
                numbers = task.chosen(self._world.seed, step, self._options.batch)
                share = 1 / (len(numbers) * len(self._inputs))
                for batch, teacher in task.batches(self._model, numbers, size):
                    loss = self._loss(batch, teacher, share)
                    if self._penalty is not None:
                        loss = loss + self._penalty(batch) * len(batch.numbers) * share
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
        return total

    def _loss(self, batch: AnswerBatch, teacher: RecordedPredictions | None, share: float) -> torch.Tensor:
        """The mean over the inputs of the mean over their targets, as its share of the whole."""
        return batch.means(self._objective.losses(self._model, batch, teacher)).sum() * share

    def _held_loss(self) -> float | None:
        """Of the inputs that are held out; None where there are none."""
        import torch

        total, any_held = 0.0, False
        size = self._options.micro_batch or self._options.batch
        self._at(None)
        # Not in inference mode, whose tensors a module may keep and a later step may need.
        with torch.no_grad():
            for task in self._inputs:
                self._asked(task.name)
                for batch, teacher in task.batches(self._model, task.held, size):
                    total += float(self._loss(batch, teacher, 1 / (len(task.held) * len(self._inputs))))
                    any_held = True
        return total if any_held else None


@contextmanager
def _frozen_but(model: Any, parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Inside, no other parameter of the network asks for a gradient; afterwards none does."""
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False).grad = None
