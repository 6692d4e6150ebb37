"""A training on trial before the first step, which is undone: what a sampler of single examples scores them by.

Uses the trainer, the trained part and the examples of a session; `run` keeps the scores, so that it happens once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from genepool import progress
from genepool.training.examples import TrainingExamples
from genepool.training.fit import Step, fit
from genepool.training.optimiser import Optimiser
from genepool.training.trainers import AnswerTrainer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.training.session import Session


class FirstTraining:
    """A session before its first step, as a sampler may use it (`samplers.FirstModel`).

    Args:
        session: the model; after every look it is as it was.
        lessons: what it learns from.
    """

    def __init__(self, session: Session, lessons: TrainingExamples) -> None:
        assert isinstance(session.trainer, AnswerTrainer)
        self._session, self._lessons, self._trainer = session, lessons, session.trainer
        self._parameters = session.trained.parameters()
        self._optimiser: Optimiser | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of each validation example the name of its task."""
        return tuple(lesson.task.name for lesson in self._lessons.valid)

    @property
    def steps(self) -> int:
        """Of the training that follows."""
        return self._session.optimiser.settings.steps

    @property
    def batch(self) -> int:
        """Examples of a step."""
        return self._trainer.recipe.batch

    def train(
        self,
        steps: int,
        places: Sequence[int] | None,
        pauses: Collection[int] = (),
        pause: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        """Trains, as `samplers.FirstModel` says, and puts the model back.

        What is asked of the trained model is asked in a pause: a last one after the last step is always there.

        Raises:
            Diverged: the loss or gradient of a step is NaN or infinite.
        """
        main = self._session.optimiser
        begun = {name: tensor.clone() for name, tensor in main.state().items()}
        settings = replace(main.settings, steps=steps, warmup=round(self._trainer.recipe.warmup * steps))
        self._optimiser = Optimiser(self._parameters, settings, self._trainer.rates())
        rates: list[float] = []
        with progress.bar("training on trial, to score the examples", steps, "steps") as bar:

            def after(step: Step) -> None:
                bar.advance()
                rates.append(step.rate)
                if step.number in pauses or step.number == steps:
                    pause(tuple(rates))
                    rates.clear()

            try:
                with self._lessons.among(places):
                    fit(self._optimiser, lambda step: self._trainer.gradients(step)[0], after)
            finally:
                main.restore(begun, 0)
                self._optimiser = None

    def losses(self) -> np.ndarray:
        """The mean loss over the tokens of every training example, (examples,)."""
        import numpy as np

        return np.array(self._trainer.losses_of(self._lessons.train))

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every training example, as means over the tokens of its answer: entropy in nats, and distance from it."""
        import numpy as np

        found = np.array(self._trainer.outputs_of(self._lessons.train))
        return found[:, 0], found[:, 1]

    def gradients(self, split: Literal["train", "valid"], place: int) -> torch.Tensor:
        """The gradient of the loss of one example, nothing dropped out, in one row of float32, (parameters,)."""
        import torch

        self._trainer.gradient_of((self._lessons.train if split == "train" else self._lessons.valid)[place])
        found = []
        for parameter in self._parameters.values():
            gradient = parameter.grad
            # In some forms parts of other tasks have no gradient.
            found.append(torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten())
            parameter.grad = None
        return torch.cat([one.float().cpu() for one in found])

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Adam's moments of the first training, each (parameters,); asked in a pause."""
        import torch

        assert self._optimiser is not None
        state = self._optimiser.state()
        first, second = (
            torch.cat([state[f"{moment}:{name}"].flatten().cpu() for name in self._parameters])
            for moment in ("exp_avg", "exp_avg_sq")
        )
        return first, second
