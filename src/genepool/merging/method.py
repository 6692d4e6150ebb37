"""The one door for merge methods: what a method declares, what it is given, and the registry that finds it.

A method is a pure function of one tensor's inputs and its parameters. One that needs to know something of the whole
vector first (a threshold over all parameters) declares a survey: a fixed number of streaming passes that each build
a small summary. Adding a method is one file in `methods/` with a class that carries `@register`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from genepool import seeding
from genepool.errors import InputError, nearest
from genepool.merging.parameters import Parameter, Site

if TYPE_CHECKING:
    import torch

# What a method merges. Statistics (activations, gradients) will be further kinds.
Kind = Literal["tensors", "deltas"]


@dataclass
class TensorGroup:
    """All that goes into one output tensor.

    Attributes:
        name: the output tensor's name.
        site: its role and layer.
        shared: parameters that hold for all models, resolved for this tensor.
        per_model: for each model its own parameters, resolved for this tensor.
        seed: the recipe's seed; `generator` mixes it with the tensor's name.
    """

    name: str
    site: Site
    shared: Mapping[str, Any]
    per_model: Sequence[Mapping[str, Any]]
    seed: int
    read_base: Callable[[], torch.Tensor | None]
    read_model: Callable[[int], torch.Tensor]
    read_delta: Callable[[int], torch.Tensor | None]
    models: Sequence[int] = field(default_factory=tuple)

    @cached_property
    def base(self) -> torch.Tensor:
        """The base's tensor in float32; only for methods that have a base."""
        base = self.read_base()
        assert base is not None, "the method declares no base"
        return base

    @cached_property
    def tensors(self) -> list[torch.Tensor]:
        """Each model's tensor in float32, in the recipe's order."""
        return [self.read_model(i) for i in self.models]

    @cached_property
    def deltas(self) -> list[torch.Tensor]:
        """Each model's task vector for this tensor in float32: model minus base. Never write into them."""
        import torch

        read = [self.read_delta(i) for i in self.models]
        return [torch.zeros_like(self.base) if delta is None else delta for delta in read]

    def column(self, parameter: str) -> list[Any]:
        """One parameter of every model, in the recipe's order."""
        return [values[parameter] for values in self.per_model]

    def generator(self, model: int) -> torch.Generator:
        """Randomness that belongs to (seed, tensor, model) alone."""
        return seeding.torch_generator(self.seed, self.name, model)


class Survey(Protocol):
    """A small summary of the whole vector, built in a fixed number of passes over all float tensors."""

    passes: int

    def observe(self, number: int, group: TensorGroup) -> None:
        """Takes in one tensor in pass `number`, counted from 0; called for every float tensor of the model."""

    def finish(self, number: int) -> None:
        """Called once at the end of pass `number`."""


class Method(ABC):
    """One merge method. Instances hold no state.

    Class attributes:
        name: as written in recipes.
        source: the paper, with its identifier.
        when: one sentence on when to use it.
        formula: what it computes, in the notation of the reference page.
        kind: "tensors" when it merges the models' tensors, "deltas" when it merges their differences to a base.
        base: whether a base is "required", "optional" or "unused".
        models: smallest and largest number of models, the base not counted; None for no limit.
        parameters: what it can be told.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    formula: ClassVar[str]
    kind: ClassVar[Kind]
    base: ClassVar[Literal["required", "optional", "unused"]]
    models: ClassVar[tuple[int, int | None]] = (1, None)
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    @abstractmethod
    def merge(self, group: TensorGroup, survey: Any) -> torch.Tensor:
        """The merged tensor, float32, of the shape of the inputs.

        Args:
            group: one tensor's inputs.
            survey: what `survey` returned, finished; None when it returned None.
        """

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        """The summary this method needs before it merges, or None.

        Args:
            shared: parameters that are constant over the model (those in `whole_model_parameters`).
            per_model: the same for each model.
            numel: number of elements of all float tensors together.
        """
        return None

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of parameters that must not vary over the model, given the shared ones."""
        return ()

    def needs(self) -> str:
        """What it merges, in words: how many models, and whether a base."""
        low, high = self.models
        if self.base == "optional":
            return f"{high} models, or {low} and its base"
        count = f"{low} or more" if high is None else (str(low) if low == high else f"{low} to {high}")
        models = f"{count} model{'' if count == '1' else 's'}"
        return f"{models} and their base" if self.base == "required" else models

    def as_json(self) -> dict[str, Any]:
        """What `genepool methods --json` prints of it."""
        defaults = {p.name: p.default for p in self.parameters if not p.per_model}
        own = {p.name: p.default for p in self.parameters if p.per_model}
        survey = self.survey(defaults, [own], 1)
        return {
            "name": self.name,
            "source": self.source,
            "when": self.when,
            "formula": self.formula,
            "needs": {"inputs": self.kind, "base": self.base, "models": list(self.models)},
            "passes": 1 + (survey.passes if survey else 0),
            "parameters": [parameter.as_json() for parameter in self.parameters],
        }

    def parameter(self, name: str) -> Parameter:
        """The declaration of one parameter."""
        return next(p for p in self.parameters if p.name == name)


_registry: dict[str, Method] = {}


def register(method: type[Method]) -> type[Method]:
    """Makes a method available under its name; used as a decorator."""
    _registry[method.name] = method()
    return method


def all_methods() -> dict[str, Method]:
    """Every registered method by name, built-in ones loaded."""
    from genepool.merging import methods

    for module in pkgutil.iter_modules(methods.__path__):
        importlib.import_module(f"{methods.__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def find_method(name: str, where: str = "") -> Method:
    """The method of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    methods = all_methods()
    if name not in methods:
        raise InputError(f"unknown merge method '{name}'", where=where, fix=nearest(name, methods))
    return methods[name]
