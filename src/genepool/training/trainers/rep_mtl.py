"""Steps of several tasks at once that also look at what each task asks of the representation they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives.rep_mtl import RepMtl
from genepool.training.saliency import SharedRepresentation
from genepool.training.trainers.answers import AnswerTrainer
from genepool.training.trainers.trainer import TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


@dataclass(frozen=True)
class _TaskBatch:
    """One batch of a task, as it was read: its number among the tasks, its rows, and the representation."""

    task: int
    batch: AnswerBatch
    places: list[int]
    representation: torch.Tensor


class RepMtlTrainer(AnswerTrainer):
    """The mean of the tasks' losses and of what `RepMtl.penalty` says, over as many examples of each task.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: there is one task alone, a step has no equal parts, or the representation cannot be found.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        assert isinstance(inputs.objective, RepMtl)
        self._rep = inputs.objective
        count, batch = len(inputs.lessons.tasks), inputs.recipe.batch
        if count < 2:
            raise InputError(
                "rep_mtl tells tasks apart, and there is one", where="--objective", fix="Name two tasks or more"
            )
        names = [task.name for task in inputs.lessons.tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"two tasks are called '{twice}'", where="tasks", fix="Give each a name of its own")
        if batch % count or batch < 2 * count:
            nearest = max(2, round(batch / count)) * count
            raise InputError(
                f"a step of {batch} examples has no equal parts of two or more for {count} tasks",
                where="--batch",
                fix=f"Set --batch {nearest}",
            )
        if self._rep.chosen.aligned and inputs.recipe.portions:
            raise InputError(
                "choose other examples in each task, so that their numbers say nothing",
                where="portions",
                fix="Leave them out, or set aligned=false",
            )
        inputs.lessons.of_each(0, 1, aligned=self._rep.chosen.aligned)
        self._each = batch // count
        self._representation = SharedRepresentation(inputs.model, self._rep.chosen.at)
        super().__init__(inputs)

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        import torch

        groups = self.lessons.of_each(step, self._each, aligned=self._rep.chosen.aligned)
        rows: list[ExampleRow] = []
        read: list[_TaskBatch] = []
        losses = []
        with self.stepping(step), twice_differentiable():
            for number, group in enumerate(groups):
                loss, told = self._of_task(number, group, read)
                losses.append(loss)
                rows += told
            total = torch.stack(losses).sum()
            if self._rep.chosen.tsr or self._rep.chosen.csa:
                total = total + self._rep.penalty(self._saliencies(total, read))
            share = total / len(groups)
            share.backward()  # type: ignore[no-untyped-call]
        return float(share.detach()), rows

    def _of_task(
        self, number: int, group: Sequence[TrainingExample], read: list[_TaskBatch]
    ) -> tuple[torch.Tensor, list[ExampleRow]]:
        """The mean loss over the tokens of a task's answers, with its graph, and a row for each example."""
        encoded = self.encoded(group, len(group))
        tokens = sum(len(batch.targets) for batch, _ in encoded)
        found: dict[int, ExampleRow] = {}
        total = None
        for batch, places in encoded:
            with self.reference.trained.about(group[0].task.name), self._representation.caught() as caught:
                losses = self._losses(batch)
            read.append(_TaskBatch(number, batch, places, self._representation.the_one(caught)))
            part = losses.sum() / tokens
            total = part if total is None else total + part
            for place, loss in zip(places, batch.means(losses.detach()).tolist(), strict=True):
                lesson = group[place]
                found[place] = ExampleRow(lesson.task.name, lesson.example.key, loss)
        assert total is not None
        return total, [found[place] for place in range(len(group))]

    def _saliencies(self, total: torch.Tensor, read: Sequence[_TaskBatch]) -> torch.Tensor:
        """S of every task: (tasks, samples, places, width); a text that is shorter than another has slopes of 0 there.

        An example acts on its own task's loss alone, so that one backward pass has the slopes of all.
        """
        import torch

        slopes = self._representation.slopes(total, [one.representation for one in read])
        parts = []
        for one, slope in zip(read, slopes, strict=True):
            count = len(next(iter(one.batch.inputs.values())))
            parts.append(self._representation.by_place(slope, count))
        longest = max(part.shape[1] for part in parts)
        found: dict[tuple[int, int], torch.Tensor] = {}
        for one, part in zip(read, parts, strict=True):
            padded = torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1]))
            row_of = dict(zip(one.batch.owners.tolist(), one.batch.rows.tolist(), strict=True))
            for owner, place in enumerate(one.places):
                found[one.task, place] = padded[row_of[owner]]
        tasks = range(len(self.lessons.tasks))
        return torch.stack([torch.stack([found[task, place] for place in range(self._each)]) for task in tasks])


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Inside, attention is computed by operations whose slopes have slopes; the fused kernels' have none."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield
