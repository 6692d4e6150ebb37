"""What a learner is given while it learns a task: the model, what is trained of it, and the examples.

The only things of a run that a learner sees. Everything that it draws belongs to (seed, task, step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from genepool.training.examples import TrainingExample

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.tasks.network import Network

#: Lessons -> batches, each with the places of its rows among the lessons.
Encode = Callable[[Sequence[TrainingExample]], list[tuple["AnswerBatch", list[int]]]]


@dataclass(frozen=True)
class LessonPlace:
    """A task that is about to be learned.

    Attributes:
        number: which task it is, counted from 0.
        seed: of everything that is drawn while it is learned; another one for every task.
        model: in memory.
        parameters: what is trained, by name; gradients stand in them.
        values: the same in float32, as the optimiser moves them: the very tensors.
        lessons: the training examples of the task.
        earlier: those of the tasks before it, by the name of the task and the key of the example.
        encode: lessons as batches.
        steps: that the task has.
    """

    number: int
    seed: int
    model: Network
    parameters: Mapping[str, torch.nn.Parameter]
    values: Mapping[str, torch.Tensor]
    lessons: Sequence[TrainingExample]
    earlier: Mapping[tuple[str, str], TrainingExample]
    encode: Encode
    steps: int

    @cached_property
    def start(self) -> dict[str, torch.Tensor]:
        """A copy of the parameters as they were when this was first asked, in the type they compute in."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @contextmanager
    def holding(self, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Inside, the model has other values of what is trained; nothing is copied.

        Args:
            values: of every parameter, by name.
        """
        now = {name: parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = values[name]
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = now[name]

    @contextmanager
    def looking_back(self, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Inside, the model is the one of other values, without gradients and without dropout.

        Args:
            values: of every parameter, by name.
        """
        import torch

        modules = list(self.model.model.modules())
        modes = [module.training for module in modules]
        self.model.model.eval()
        try:
            with torch.no_grad(), self.holding(values):
                yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode

    def loss_gradient(self, lessons: Sequence[TrainingExample]) -> dict[str, torch.Tensor]:
        """The gradient of the mean loss over the targets of some examples, float32, by name of the parameter.

        Args:
            lessons: the examples.
        """
        import torch

        from genepool.training.batches import answer_likelihoods

        encoded = self.encode(lessons)
        targets = sum(len(batch.targets) for batch, _ in encoded)
        for parameter in self.parameters.values():
            parameter.grad = None
        with torch.enable_grad():
            for batch, _ in encoded:
                (-answer_likelihoods(self.model, batch)[0].sum() / targets).backward()  # type: ignore[no-untyped-call]
        found = {name: one.grad.float() for name, one in self.parameters.items() if one.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
        return found

    def likelihood_gradients(self, lessons: Sequence[TrainingExample]) -> Iterator[Mapping[str, torch.Tensor]]:
        """The gradient of the log-likelihood of each answer, one example after the other.

        Args:
            lessons: the examples.

        Yields:
            Gradients by name of the parameter, each of its shape; they are overwritten by the next.
        """
        import torch

        from genepool.training.batches import answer_likelihoods

        for lesson in lessons:
            for parameter in self.parameters.values():
                parameter.grad = None
            with torch.enable_grad():
                for batch, _ in self.encode([lesson]):
                    answer_likelihoods(self.model, batch)[0].sum().backward()  # type: ignore[no-untyped-call]
            yield {name: one.grad for name, one in self.parameters.items() if one.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
