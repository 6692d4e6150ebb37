"""Few-shot class-incremental learning: a first task with many examples, then tasks of new classes with a few each.

What is called a trick of it is an option, each off by default, so that each can be asked alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.training.continual.features import FeatureHead, class_means, equal_angles, supervised_contrast
from genepool.training.continual.memory import Memory
from genepool.training.continual.pictures import reads_images, second_view, turned
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.examples import TrainingExample
    from genepool.training.opened_training import OpenedTraining


class FewShotOptions(LearnerOptions):
    """Options of `few_shot`."""

    scale: float = Field(default=16.0, gt=0, le=1000, description="What cosines are multiplied with before softmax.")
    contrast: float = Field(
        default=0.0, ge=0, description="Stability: weight of a supervised contrast of the features in the first task."
    )
    assigned: bool = Field(
        default=False,
        description="Stability: prototypes are fixed before the first task, at equal angles, one for each class of the "
        "head; a later class gets the free one that is nearest to its examples.",
    )
    pseudo: int = Field(
        default=0,
        ge=0,
        le=3,
        description="Stability: in the first task, images turned by 1 to N quarters are classes of their own.",
    )
    subnet: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Adaptability: the part of what is trained that later tasks may move, the smallest values of each "
        "tensor. 0: nothing moves; 1: plain fine-tuning.",
    )
    rotation: float = Field(
        default=0.0, ge=0, description="Training: weight of telling by how many quarters an image is turned."
    )
    pretraining: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Training: the part of the first task's steps that tells images apart without their classes, each "
        "from two views.",
    )


class FewShot(TaskLearner):
    """The first task trains features by cosines to prototypes; every class is then answered by the mean of its own.

    In the first task minus the log-likelihood is of ``softmax(scale * cos(f, p))`` over its classes, f being what the
    head is given and p prototypes that are trained with it. When a task ends, the prototype of each of its classes is
    the mean of its examples' features at length 1, and the nearest one by the cosine answers, which is written into the
    head. Later tasks move nothing but `subnet` of the weights, towards the likelihood over all classes so far, whose
    prototypes stand still. With `assigned`, a class that was trained keeps the prototype that it was assigned.
    """

    name = "few_shot"
    source = (
        "Roy et al., A Bag of Tricks for Few-Shot Class-Incremental Learning, arXiv:2403.14392, whose six tricks are "
        "the options; scale, views, and how a trick is computed where the abstract does not say it are ours"
    )
    when = "a classifier learns new classes from a few examples each, after a first task with many"
    classes_only: ClassVar[bool] = True
    Options: ClassVar[type[LearnerOptions]] = FewShotOptions
    options: FewShotOptions

    def check(self, opened: OpenedTraining) -> None:
        from genepool.tasks import open_model

        if reads_images(open_model(opened.base).kind):
            return
        for name in ("pseudo", "rotation", "pretraining"):
            if getattr(self.options, name):
                raise InputError(
                    f"got {getattr(self.options, name):g}, and it is for images, which the base does not read",
                    where=opened.recipe.key(f"options.{name}"),
                    fix="Leave it out, or name a model that reads images",
                )

    def begin_task(self) -> None:
        import torch

        place, kept, ask = self.place, self.memory, self.options
        device = place.model.device
        self._head = head = FeatureHead.of(place, self.name)
        self._own = head.classes(list(place.lessons))
        self._known = sorted({*map(int, kept.facts.get("classes", [])), *self._own})
        self._places = {int(one): int(at) for one, at in kept.facts.get("assigned", [])}
        self._trained: dict[str, torch.nn.Parameter] = {}
        self._still: dict[str, torch.Tensor] = {}
        self._prototypes = torch.zeros(len(head.labels) * (1 + ask.pseudo), head.width, device=device)
        if "prototypes" in kept.tensors:
            self._prototypes[: len(head.labels)] = kept.tensors["prototypes"].to(device)
        if ask.assigned:
            self._assign()
        if not place.number:
            self._begin_first()
            return
        fresh = [one for one in self._own if one not in kept.facts.get("classes", []) and one not in self._places]
        for one, mean in class_means(place, head).items():
            if one in fresh:
                self._prototypes[one] = mean
        # A copy, made now: later the values have moved.
        self._start = {name: values.clone() for name, values in place.values.items()}
        self._still = {
            name: _still_part(values, ask.subnet)
            for name, values in place.values.items()
            if name not in (head.weight, head.bias)
        }

    def _begin_first(self) -> None:
        import torch

        head, ask, seed = self._head, self.options, self.place.seed
        if not ask.assigned:
            drawn = torch.randn(self._prototypes.shape, generator=torch_generator(seed, "prototypes"))
            self._trained["prototypes"] = torch.nn.Parameter(drawn.to(self._prototypes) * head.width**-0.5)
        if ask.rotation:
            drawn = torch.randn(4, head.width, generator=torch_generator(seed, "turns"))
            self._trained["turns"] = torch.nn.Parameter(drawn.to(self._prototypes) * head.width**-0.5)

    def _assign(self) -> None:
        """Gives the classes of the first task the first directions, and later ones the nearest that are free."""
        from scipy.optimize import linear_sum_assignment

        head, count = self._head, len(self._prototypes)
        directions = equal_angles(count, head.width, f"--learner {self.name}: --set assigned").to(self._prototypes)
        if not self.place.number:
            # With pseudo-classes each class has as many directions as it has turns.
            self._places |= {one: one for one in self._own}
            self._prototypes.copy_(directions)
            return
        fresh = [one for one in self._own if one not in self._places]
        if not fresh or not self.options.subnet:
            return
        means = class_means(self.place, head)
        taken = set(self._places.values())
        free = [at for at in range(len(head.labels)) if at not in taken]
        rows, columns = linear_sum_assignment([[-float(means[one] @ directions[at]) for at in free] for one in fresh])
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            self._places[fresh[row]] = free[column]
            self._prototypes[fresh[row]] = directions[free[column]]

    def beside(self) -> dict[str, torch.nn.Parameter]:
        return dict(self._trained)

    def lessons(self, step: int, drawn: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
        self._step = step
        self._views = torch_generator(self.place.seed, "views", step)
        return drawn

    @property
    def compares_examples(self) -> bool:
        return bool(self.options.contrast or self.options.pretraining)

    def losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> torch.Tensor:
        import torch

        place, head, ask = self.place, self._head, self.options
        if not place.number and self._step < ask.pretraining * place.steps:
            return self._told_apart(batch)
        classes = batch.targets.to(place.model.device)
        count = len(head.labels)
        if place.number:
            return self._likelihoods(head.features(place, batch), classes, self._prototypes, self._known)
        prototypes = self._trained.get("prototypes", self._prototypes)
        turns = [head.features(place, self._turned(batch, turn)) for turn in range(1 + ask.pseudo)]
        features = torch.cat(turns)
        named = torch.cat([classes + turn * count for turn in range(1 + ask.pseudo)])
        among = [one + turn * count for turn in range(1 + ask.pseudo) for one in self._own]
        found = self._likelihoods(features, named, prototypes, among)
        if ask.contrast:
            points = torch.nn.functional.normalize(features, dim=1)
            found = found + ask.contrast * supervised_contrast(points, named, _CONTRAST)
        found = found.view(1 + ask.pseudo, -1).mean(0)
        if ask.rotation:
            found = found + ask.rotation * self._told_turns(batch, turns)
        return found

    def _likelihoods(
        self, features: torch.Tensor, classes: torch.Tensor, prototypes: torch.Tensor, among: list[int]
    ) -> torch.Tensor:
        """Minus the log-likelihood of each example's class among some, (examples,)."""
        import torch

        points = torch.nn.functional.normalize(features, dim=1)
        scores = self.options.scale * points @ torch.nn.functional.normalize(prototypes[among], dim=1).T
        places = {one: at for at, one in enumerate(among)}
        wanted = torch.tensor([places[one] for one in classes.tolist()], device=scores.device)
        return -scores.log_softmax(1).gather(1, wanted.unsqueeze(1)).squeeze(1)

    def _turned(self, batch: AnswerBatch, quarters: int) -> AnswerBatch:
        return turned(batch, quarters, f"--learner {self.name}")

    def _told_turns(self, batch: AnswerBatch, known: list[torch.Tensor]) -> torch.Tensor:
        """Minus the log-likelihood of the quarters that each image is turned by, the mean of all four."""
        import torch

        place, head = self.place, self._head
        features = [*known, *(head.features(place, self._turned(batch, turn)) for turn in range(len(known), 4))]
        parts = [(one @ self._trained["turns"].T).log_softmax(1)[:, turn] for turn, one in enumerate(features)]
        return -torch.stack(parts).mean(0)

    def _told_apart(self, batch: AnswerBatch) -> torch.Tensor:
        """Minus the log-likelihood of telling each image's other view from the views of the others."""
        import torch

        views = []
        for _ in range(2):
            view = second_view(batch, self._views, f"--learner {self.name}")
            views.append(torch.nn.functional.normalize(self._head.features(self.place, view), dim=1))
        images = torch.arange(len(views[0]), device=views[0].device).repeat(2)
        return supervised_contrast(torch.cat(views), images, _CONTRAST).view(2, -1).mean(0)

    def after_backward(self) -> None:
        for name, parameter in self.place.parameters.items():
            if self.place.number and parameter.grad is not None:
                parameter.grad[self._still.get(name, ...)] = 0

    def after_step(self) -> None:
        # Weight decay and the moments of before move what has no gradient too.
        if self.place.number:
            for name, values in self.place.values.items():
                still = self._still.get(name, ...)
                values[still] = self._start[name][still]

    def deployed(self) -> Mapping[str, torch.Tensor]:
        return self._head.by_cosine(dict(self.place.values), self._prototypes, self._known)

    def end_task(self) -> Memory:
        head = self._head
        for one, mean in class_means(self.place, head).items():
            # One that was learned before keeps its prototype: of it this task has a few more examples alone.
            if one not in self._places and one not in self.memory.facts.get("classes", []):
                self._prototypes[one] = mean
        return Memory(
            {"prototypes": self._prototypes[: len(head.labels)].clone()},
            facts={"classes": self._known, "assigned": sorted(map(list, self._places.items()))},
        )


#: The temperature of both contrasts: Khosla et al., arXiv:2004.11362, section 4.4.
_CONTRAST = 0.1


def _still_part(values: torch.Tensor, moving: float) -> torch.Tensor:
    """Which entries of a tensor stay, bool: all but the smallest share."""
    import torch

    count = round(moving * values.numel())
    still = torch.ones(values.numel(), dtype=torch.bool, device=values.device)
    still[values.abs().flatten().argsort(stable=True)[:count]] = False
    return still.view(values.shape)
