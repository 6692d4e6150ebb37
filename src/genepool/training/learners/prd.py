"""Prototype-sample relation distillation: classes have prototypes, and old ones keep their relation to what is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from genepool.seeding import torch_generator
from genepool.training.continual.features import FeatureHead, supervised_contrast
from genepool.training.continual.memory import Memory
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.examples import TrainingExample


class PrdOptions(LearnerOptions):
    """Options of `prd`."""

    temperature: float = Field(default=0.1, gt=0, le=100, description="Of the contrast between the examples of a step.")
    prototypes: float = Field(default=2.0, ge=0, description="Weight of bringing prototypes to their examples.")
    distillation: float = Field(default=4.0, ge=0, description="Weight of keeping the relations of old prototypes.")
    relation: Literal["samples", "classes"] = Field(
        default="samples",
        description="What is kept of an old prototype: samples, how it ranks the examples of a step (the paper); "
        "classes, how an example ranks the prototypes of an old task (the authors' code).",
    )
    rate: float = Field(default=0.01, gt=0, le=10, description="Learning rate of the prototypes, by plain descent.")
    hidden: int = Field(default=512, ge=1, le=65536, description="Width of the projection's hidden layer.")
    size: int = Field(default=128, ge=1, le=65536, description="Numbers that an example is projected to.")


class Prd(TaskLearner):
    """Features by a contrast of classes, prototypes that follow them, and no example kept.

    The loss of a step, f being what the head is given, p prototypes at length 1, and f_old, p_old those of the model as
    the task before left it:

    - the supervised contrast of a projection of f, a network with one hidden layer;
    - `prototypes * (1 - cos(f, p of its class))`, which moves the prototypes alone;
    - `distillation * KL`, between the softmax of `f_old p_old` and of `f p` for each old prototype over the examples of
      a step, averaged over the old prototypes; or for each example over the prototypes of each old task, summed over
      these tasks. It moves features and prototypes.

    An example is answered by the class of the nearest prototype by the cosine, which is written into the head. The
    authors show two augmentations of each image, here an example is shown once. Beside the prototypes the projection is
    kept between tasks.
    """

    name = "prd"
    source = (
        "Asadi et al., Prototype-Sample Relation Distillation, ICML 2023: temperature 0.1, weights 2 and 4, projection "
        "512 to 128 and rate 0.01 as the authors' code"
    )
    when = "a classifier learns new classes, and no example may be kept"
    classes_only: ClassVar[bool] = True
    Options: ClassVar[type[LearnerOptions]] = PrdOptions
    options: PrdOptions

    def begin_task(self) -> None:
        import torch

        place, kept, ask = self.place, self.memory, self.options
        device = place.model.device
        self._head = head = FeatureHead.of(place, self.name)
        self._old: list[list[int]] = [list(map(int, one)) for one in kept.facts.get("classes", [])]
        self._own = head.classes(list(place.lessons))
        known = {one for classes in self._old for one in classes}
        bound, values = head.width**-0.5, torch.zeros(len(head.labels), head.width)
        if "prototypes" in kept.tensors:
            values.copy_(kept.tensors["prototypes"])
        for one in [one for one in self._own if one not in known]:
            values[one].uniform_(-bound, bound, generator=torch_generator(place.seed, "prototype", one))
        self._prototypes = torch.nn.Parameter(values.to(device))
        self._begun = self._prototypes.detach().clone()
        shapes = {"in": (ask.hidden, head.width), "out": (ask.size, ask.hidden)}
        self._projection = {}
        for name, (outputs, inputs) in shapes.items():
            weight = kept.tensors.get(f"projection:{name}")
            if weight is None:
                drawn = torch_generator(place.seed, "projection", name)
                weight = torch.empty(outputs, inputs).uniform_(-(inputs**-0.5), inputs**-0.5, generator=drawn)
            self._projection[name] = torch.nn.Parameter(weight.to(device).clone())
        # A copy, made now: later the parameters have moved.
        self._start = dict(place.start) if self._old else {}

    @property
    def compares_examples(self) -> bool:
        return True

    def beside(self) -> dict[str, torch.nn.Parameter]:
        return {f"projection:{name}": one for name, one in self._projection.items()}

    def losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> torch.Tensor:
        import torch

        place, head, ask = self.place, self._head, self.options
        classes = batch.targets.to(place.model.device)
        features = head.features(place, batch)
        inner = (features @ self._projection["in"].T).relu()
        points = torch.nn.functional.normalize(inner @ self._projection["out"].T, dim=1)
        found = supervised_contrast(points, classes, ask.temperature)
        own = self._prototypes[classes]
        found = found + ask.prototypes * (1 - torch.nn.functional.cosine_similarity(features.detach(), own, dim=1))
        if self._old and ask.distillation:
            with place.looking_back(self._start):
                before = head.features(place, batch)
            found = found + ask.distillation * self._relations(before, features)
        return found

    def _relations(self, before: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What each example has of the divergence of the old prototypes' relations, so that the mean is all of it."""
        import torch

        def scores(points: torch.Tensor, prototypes: torch.Tensor, classes: list[int]) -> torch.Tensor:
            return points @ torch.nn.functional.normalize(prototypes[classes], dim=1).T

        if self.options.relation == "samples":
            old = sorted({one for classes in self._old for one in classes})
            was = scores(before, self._begun, old).log_softmax(0)
            now = scores(features, self._prototypes, old).log_softmax(0)
            return len(features) * (was.exp() * (was - now)).mean(1)
        parts = []
        for classes in self._old:
            was = scores(before, self._begun, classes).log_softmax(1)
            now = scores(features, self._prototypes, classes).log_softmax(1)
            parts.append((was.exp() * (was - now)).sum(1))
        return torch.stack(parts).sum(0)

    def after_step(self) -> None:
        if self._prototypes.grad is not None:
            self._prototypes.sub_(self.options.rate * self._prototypes.grad)
            self._prototypes.grad = None

    def deployed(self) -> Mapping[str, torch.Tensor]:
        known = sorted({*self._own, *(one for classes in self._old for one in classes)})
        return self._head.by_cosine(dict(self.place.values), self._prototypes.detach(), known)

    def end_task(self) -> Memory:
        kept = {f"projection:{name}": one.detach().clone() for name, one in self._projection.items()}
        return Memory(
            {"prototypes": self._prototypes.detach().clone(), **kept}, facts={"classes": [*self._old, self._own]}
        )

    def state(self) -> dict[str, torch.Tensor]:
        return {"prototypes": self._prototypes.detach()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            self._prototypes.copy_(state["prototypes"])
