"""One task of a sequence in training: a run like any other, in whose steps the learner has its say.

The trainer asks the learner for the examples and the loss of a step and shows it the gradients; the optimiser shows it
the step. Its state stands in the states of the run, so a killed task goes on to the same bits. Uses runs and sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.threads import torch_threads
from genepool.training.continual.compute import ComputeMeter
from genepool.training.continual.folder import view_place
from genepool.training.continual.lesson_place import LessonPlace
from genepool.training.continual.memory import Memory, write_memory
from genepool.training.continual.search import Trial
from genepool.training.examples import TrainingExample
from genepool.training.fit import drawing
from genepool.training.journal import ExampleRow, Journal
from genepool.training.learners import TaskLearner
from genepool.training.opened_training import OpenedTraining
from genepool.training.optimiser import Optimisation, Optimiser
from genepool.training.run import Run
from genepool.training.session import Session
from genepool.training.trainers import AnswerTrainer, TrainerInputs

if TYPE_CHECKING:
    import torch

#: How the names of a learner's own tensors begin in a state.
LEARNER = "learner:"
#: How the names of what a learner trains beside the model begin there.
BESIDE = "beside:"
#: The name of what was computed there.
COMPUTE = "compute"


class LearnerTrainer(AnswerTrainer):
    """Steps that a learner decides on.

    Args:
        inputs: the model, what it learns from, and what a step minimises.
        learner: who decides; its place is set before the first step.
    """

    def __init__(self, inputs: TrainerInputs, learner: TaskLearner) -> None:
        super().__init__(inputs)
        self.learner = learner

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        learner = self.learner
        lessons = list(learner.lessons(step, self.lessons.at(step, self.recipe.batch)))
        total, rows = self.token_gradients(
            step, lessons, self.encoded(lessons), lambda batch, own: learner.losses(batch, own), lambda *_: {}
        )
        with self.stepping(step), drawing(self.recipe.seed, step, "penalty"):
            penalty = learner.penalty(step)
            if penalty is not None and penalty.requires_grad:
                penalty.backward()  # type: ignore[no-untyped-call]
        if penalty is not None:
            total += float(penalty.detach())
        learner.after_backward()
        return total, rows


class LearnerOptimiser(Optimiser):
    """An optimiser whose steps are shown to a learner.

    Args:
        parameters, settings: as for `Optimiser`.
        learner: it.
        meter: counts what a task costs; what it has counted stands in the states too.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        settings: Optimisation,
        learner: TaskLearner,
        meter: ComputeMeter,
    ) -> None:
        super().__init__(parameters, settings)
        self._learner, self._meter = learner, meter
        self._beside: Optimiser | None = None

    def train_beside(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """From now on also trains what a learner has beside the model; nothing where there is none."""
        if parameters:
            self._beside = Optimiser(parameters, replace(self.settings, weight_decay=0.0))

    def clip(self) -> float:
        norm = super().clip()
        # By itself: what a learner trains beside the model must not make the model's own steps smaller.
        return norm if self._beside is None else math.hypot(norm, self._beside.clip())

    def step(self, number: int) -> None:
        import torch

        super().step(number)
        if self._beside is not None:
            self._beside.step(number)
        with torch.no_grad():
            self._learner.after_step()
            for name, master in self._masters.items():
                if master is not self._parameters[name]:
                    self._parameters[name].copy_(master)

    def judged(self) -> dict[str, torch.Tensor]:
        return dict(self._learner.deployed())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        deployed = self._learner.deployed()
        kinds = {name: parameter.dtype for name, parameter in self._parameters.items()}
        with self._learner.place.holding({name: deployed[name].to(kind) for name, kind in kinds.items()}):
            yield

    def moved(self) -> dict[str, torch.Tensor]:
        beside = {} if self._beside is None else self._beside.trained()
        return {**super().moved(), **{f"{BESIDE}{name}": one for name, one in beside.items()}}

    def state(self) -> dict[str, torch.Tensor]:
        import torch

        beside = {} if self._beside is None else self._beside.state()
        own = {f"{BESIDE}{name}": one for name, one in beside.items()}
        own[COMPUTE] = torch.tensor(self._meter.total)
        return {**super().state(), **own, **{f"{LEARNER}{name}": one for name, one in self._learner.state().items()}}

    def restore(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        super().restore(state, step)
        if step:
            self._meter.total = int(state.get(COMPUTE, self._meter.total))
            if self._beside is not None:
                beside = {name.removeprefix(BESIDE): one for name, one in state.items() if name.startswith(BESIDE)}
                self._beside.restore(beside, step)
            own = {name.removeprefix(LEARNER): one for name, one in state.items() if name.startswith(LEARNER)}
            self._learner.restore(own)


@dataclass(frozen=True)
class EarlierModel:
    """A model that a task may begin with.

    Attributes:
        embed: a meter and prompts -> embeddings, (prompts, width); loads it, and what it computes is counted.
        values: loads what was trained of it, as a state names it; None for the base, whose parameters are as made.
    """

    embed: Callable[[ComputeMeter, Sequence[str]], torch.Tensor]
    values: Callable[[], Mapping[str, torch.Tensor]] | None = None


class TaskRun(Run):
    """The training of one task, or of those that are learned together.

    Args:
        opened: the tasks, opened; without validation examples, since the last state is what counts.
        out: the folder of the task.
        journal: its record, open.
        learner: who decides on its steps.
        number: which stage it is, counted from 0.
        memory: what was kept of the tasks before.
        earlier: the training examples of the tasks before, by task and key.
        so_far: names of the tasks up to this one, in the order in which they were learned.
        stages: the models that it may begin with, the base first; empty where its parameters begin anew.
        device: torch's name of the device.
    """

    def __init__(
        self,
        opened: OpenedTraining,
        out: Path,
        journal: Journal,
        learner: TaskLearner,
        number: int,
        memory: Memory,
        earlier: Mapping[tuple[str, str], TrainingExample],
        *,
        so_far: tuple[str, ...] = (),
        stages: Sequence[EarlierModel] = (),
        device: str = "cpu",
    ) -> None:
        super().__init__(opened, out, journal, device=device)
        self._learner, self._number, self._memory, self._earlier = learner, number, memory, earlier
        self._so_far, self._stages = so_far, stages

    def session(self) -> Session:
        """The model in memory as the task begins, and the learner told of it."""
        learner = self._learner
        self._meter = meter = ComputeMeter()
        session = Session(
            self.recipe,
            self._loaded(self.opened.base),
            self.opened.base,
            self.opened.lessons,
            make_trainer=lambda inputs: LearnerTrainer(inputs, learner),
            make_optimiser=lambda parameters, settings: LearnerOptimiser(parameters, settings, learner, meter),
        )
        meter.watch(session.model.model)
        trainer = session.trainer
        values = session.optimiser.trained()
        learner.memory = self._memory
        learner.place = LessonPlace(
            self._number,
            self.recipe.seed,
            session.model,
            session.trained.parameters(),
            values,
            self.opened.lessons.train,
            self._earlier,
            trainer.encoded,
            self.recipe.steps,
        )
        if self._stages:
            chosen = self._stages[learner.begins_with([partial(stage.embed, meter) for stage in self._stages])]
            if chosen.values is not None and not self.states.kept() and not self.journal.steps():
                self.states.put(0, chosen.values())
        if 0 in self.states.kept():
            try:
                # A learner has no state of its own yet.
                session.optimiser.restore(self.states.load(0), 0)
            except (KeyError, ValueError) as error:
                raise self.states.damaged(0, str(error)) from None
        learner.begin_task()
        assert isinstance(session.optimiser, LearnerOptimiser)
        session.optimiser.train_beside(learner.beside())
        return session

    def tried(self) -> Trial:
        """What a trial of the task came to; its steps are taken, and its lessons have validation examples."""
        session, last = self._session, self._recorded()[-1]
        assert session is not None
        return Trial(session.optimiser.settings.learning_rate, last.score, last.loss, self._meter.total)

    def _lineage(self, step: int) -> dict[str, Any]:
        told = super()._lineage(step)
        return {**told, "learner": self.recipe.learner, "tasks": list(self._so_far) or told["tasks"]}

    def _restore(self, step: int, session: Session) -> None:
        # The start was put back before the learner was told of it, and may have been changed by it.
        if step:
            super()._restore(step, session)

    def finish_task(self) -> dict[str, Any]:
        """Writes what the learner keeps and what was trained.

        Returns:
            What is told of the task.
        """
        session = self._session
        assert session is not None
        last = self.states.kept()[-1]
        self._restore(last, session)
        with torch_threads(self.threads):
            memory = self._learner.end_task()
        compute = self._meter.total
        write_memory(self.out, memory)
        views = self._learner.views(memory)
        for number, values in enumerate(views):
            self._write_view(view_place(self.out, number) / session.trained.place, values, session, last)
        # The last state again: a learner may have looked at gradients.
        told, _ = self._written(measured=False)
        self.states.forget_all_but({0, last})
        kept = {"memory_bytes": memory.bytes, "facts": dict(memory.facts), "views": len(views)}
        return {**told, **kept, "compute": compute}

    def _write_view(self, out: Path, values: Mapping[str, torch.Tensor], session: Session, step: int) -> None:
        """Writes what one of the tasks so far is asked with."""
        kinds = {name: parameter.dtype for name, parameter in session.trained.parameters().items()}
        out.parent.mkdir(parents=True, exist_ok=True)
        with self._learner.place.holding({name: values[name].to(kind) for name, kind in kinds.items()}):
            session.trained.write(out, dict(values), self.opened.base, self._lineage(step), None)
