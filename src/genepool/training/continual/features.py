"""The features that a classifier's head is given: what learners tell classes apart by that do not ask the head itself.

Uses torch; PRD and the learner of few examples a class are built on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.continual.lesson_place import LessonPlace
    from genepool.training.examples import TrainingExample


@dataclass(frozen=True)
class FeatureHead:
    """The linear layer that gives every class its score.

    Attributes:
        module: it.
        weight: the name of its weight, (classes, width), among what is trained.
        bias: of its bias; None where it has none.
        labels: the classes.
    """

    module: Any
    weight: str
    bias: str | None
    labels: tuple[str, ...]

    @classmethod
    def of(cls, place: LessonPlace, learner: str) -> FeatureHead:
        """The head of a model in training.

        Args:
            place: the task.
            learner: for errors.

        Raises:
            InputError: it has no linear layer with a score for each class that is trained.
        """
        import torch

        labels = tuple(place.model.labels)
        names = {id(parameter): name for name, parameter in place.parameters.items()}
        found = [
            module
            for module in place.model.model.modules()
            if isinstance(module, torch.nn.Linear) and id(module.weight) in names and len(module.weight) == len(labels)
        ]
        if not found:
            raise InputError(
                "has no linear layer with a score for each class that is trained",
                where=f"--learner {learner}: {place.model.title}",
                fix="Name a classifier with such a head, or another learner",
            )
        head = found[-1]
        bias = None if head.bias is None else names.get(id(head.bias))
        return cls(head, names[id(head.weight)], bias, labels)

    @property
    def width(self) -> int:
        """How many features an example has."""
        return int(self.module.in_features)

    def classes(self, lessons: list[TrainingExample]) -> list[int]:
        """The classes of some examples, ascending, each once."""
        return sorted({self.labels.index(lesson.example.answer) for lesson in lessons})

    def features(self, place: LessonPlace, batch: AnswerBatch) -> torch.Tensor:
        """What the head is given of each example, (examples, width), float32."""
        # The layer hands on what it is given: whatever picks the scores of an example then picks its features.
        handle = self.module.register_forward_hook(lambda _, inputs, __: inputs[0])
        try:
            return place.model.answer_logits(batch)
        finally:
            handle.remove()

    def by_cosine(
        self, values: dict[str, torch.Tensor], prototypes: torch.Tensor, known: list[int]
    ) -> dict[str, torch.Tensor]:
        """What is trained, with a head that answers the class of the nearest prototype by the cosine.

        The weight of a class is its prototype at length 1, so that the scores are the cosines times the length of the
        features, which is the same for all classes. A class without a prototype gets the score 0, and far less where
        the head has a bias.

        Args:
            values: what is trained, by name.
            prototypes: (classes, width); rows of classes that are not known do not matter.
            known: classes that have a prototype.
        """
        import torch

        weight = torch.zeros_like(values[self.weight])
        weight[known] = torch.nn.functional.normalize(prototypes[known].to(weight), dim=1)
        found = {**values, self.weight: weight}
        if self.bias is not None:
            bias = torch.full_like(values[self.bias], _NEVER)
            bias[known] = 0
            found[self.bias] = bias
        return found


#: Added to the score of a class that was never learned.
_NEVER = -1e4


def supervised_contrast(points: torch.Tensor, classes: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far an example is from those of its class, beside all others: Khosla et al., arXiv:2004.11362, equation 2.

    Args:
        points: of length 1, (examples, size).
        classes: (examples,).
        temperature: divides the cosines.

    Returns:
        (examples,): the mean, over the other examples of its class, of minus the logarithm of the share that each has
        among all other examples; 0 where an example is the only one of its class.
    """
    import torch

    if len(points) < 2:
        return points.sum(1) * 0
    alone = torch.eye(len(points), dtype=torch.bool, device=points.device)
    scores = (points @ points.T / temperature).masked_fill(alone, -torch.inf)
    same = (classes.unsqueeze(0) == classes.unsqueeze(1)) & ~alone
    shares = scores.log_softmax(1).masked_fill(~same, 0.0)
    return -shares.sum(1) / same.sum(1).clamp(min=1)


def class_means(place: LessonPlace, head: FeatureHead) -> dict[int, torch.Tensor]:
    """The mean features of a task's classes, each example's at length 1: class -> (width,).

    Args:
        place: the task.
        head: of its model.
    """
    import torch

    sums: dict[int, torch.Tensor] = {}
    counts: dict[int, int] = {}
    with torch.no_grad():
        for batch, _ in place.encode(place.lessons):
            points = torch.nn.functional.normalize(head.features(place, batch), dim=1)
            for one, point in zip(batch.targets.tolist(), points, strict=True):
                sums[one] = sums.get(one, 0) + point.double()
                counts[one] = counts.get(one, 0) + 1
    return {one: (total / counts[one]).float() for one, total in sums.items()}


def equal_angles(count: int, width: int, where: str) -> torch.Tensor:
    """Directions of length 1 with the same angle between any two, as wide as can be: a simplex, (count, width).

    `sqrt(K / (K - 1)) (I - 1 1^T / K) U`, U being the first K coordinates (Papyan et al., arXiv:2008.08186).

    Args:
        count: K.
        width: of a direction.
        where: what asks for them, for errors.

    Raises:
        InputError: there are more than coordinates.
    """
    import torch

    if count > width or count < 2:
        raise InputError(
            f"{count} prototypes at equal angles do not fit into {width} features",
            where=where,
            fix="Leave `assigned` out, or use fewer pseudo-classes",
        )
    centred = torch.eye(count, width)
    centred[:, :count] -= 1 / count
    found: torch.Tensor = centred * (count / (count - 1)) ** 0.5
    return found
