"""What a form of an adapter declares: its tensors, how they start, what a network computes with them, and how it folds.

A `LinearForm` changes what linear layers compute and folds into their weights; a `NetworkForm` changes what a network
computes elsewhere, and says why it does not fold. The forms are in `genepool.weights.adapter_forms`, one file each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genepool.errors import InputError
from genepool.schema import Strict, described_options
from genepool.seeding import torch_generator
from genepool.weights.encodings.low_rank import Product
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached

Shapes = dict[str, tuple[int, ...]]
#: What a form is made for: any model, models that tell classes, or models that write.
Reads = Literal["any", "classes", "text"]


class FormOptions(Strict):
    """Options of a form: none, unless it says some."""

    page = "reference/adapter-forms"


@dataclass(frozen=True)
class Beginning:
    """What a form begins with.

    Attributes:
        sites: the places of the model.
        read: a linear layer's weight (outputs, inputs) and its bias, if it has one, in float32.
        seed: decides what is drawn; each tensor belongs to (seed, its name).
        squares: the mean of x x^T, (inputs, inputs) float64, of what linear layers read on examples; by module.
        layers: what layers of these names give on training examples, by number: the mean over the places of each
            example, (examples, width) float32.
        loss_without: the mean loss of so many training examples while these modules give 0.
    """

    sites: ModelSites
    read: Callable[[LinearSite], tuple[torch.Tensor, torch.Tensor | None]]
    seed: int
    squares: Callable[[Sequence[LinearSite]], Mapping[str, torch.Tensor]]
    layers: Callable[[Sequence[str]], list[torch.Tensor]]
    loss_without: Callable[[Sequence[str], int], float]

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> torch.Tensor:
        """A tensor of normal draws around 0, in float32."""
        import torch

        return torch.randn(shape, generator=torch_generator(self.seed, "form", name)) * deviation

    def kaiming(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A matrix (outputs, inputs) as LoRA's A begins: uniform within 1 / sqrt(inputs), in float32."""
        import torch

        bound = shape[-1] ** -0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=torch_generator(self.seed, "form", name))


class FormOfAdapter(ABC):
    """One form of adapter.

    Args:
        options: its options.
        tasks: names of the tasks it is trained on, for forms that have parts for each.

    Class attributes:
        name: what the command line calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        traps: what a user must know that the paper or its code does not say.
        by_task: whether each task has parts of its own, so that `FORM#TASK` names it for one of them.
        why_not: why it does not fold into plain weights; empty where it does, with its default options at least.
        reads: what it is made for.
        boost: how much larger than for full training the learning rate is.
        Options: the model of its options.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    traps: ClassVar[str] = ""
    by_task: ClassVar[bool] = False
    why_not: ClassVar[str] = ""
    reads: ClassVar[Reads] = "any"
    boost: ClassVar[float] = 10.0
    Options: ClassVar[type[FormOptions]] = FormOptions

    def __init__(self, options: Any = None, tasks: Sequence[str] = ()) -> None:
        self.options = options if options is not None else self.Options()
        self.tasks = tuple(tasks)

    @property
    def why_no_fold(self) -> str:
        """Why it does not fold with its options; empty where it does."""
        return self.why_not

    @property
    def folds(self) -> bool:
        """Whether it becomes plain weights."""
        return not self.why_no_fold

    @abstractmethod
    def shapes(self, sites: ModelSites) -> Shapes:
        """The shape of every tensor of the form, by name, from the places of a model alone.

        Raises:
            InputError: the form does not fit this model.
        """

    def settings(self) -> dict[str, Any]:
        """Its options, defaults included, as plain data; a file stands by its hash, wherever it lies.

        Raises:
            InputError: a file that they name cannot be read.
        """
        return self.saved_parameters()

    def saved_parameters(self) -> dict[str, Any]:
        """Its options as they are kept with the result."""
        found: dict[str, Any] = self.options.model_dump(mode="json")
        return found

    def frozen(self, name: str) -> bool:
        """Whether a tensor stays as it begins."""
        return False

    @abstractmethod
    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        """The value of every tensor at the start, in float32.

        Raises:
            InputError: the form cannot begin on this model.
        """

    @abstractmethod
    def attach(self, attached: Attached) -> None:
        """Changes what a network computes, through `attached.replace` and the tensors of `attached`."""

    def all_shapes(self, sites: ModelSites) -> Shapes:
        """`shapes`, and those of the head of a classifier, which is trained whole beside every form."""
        return {**self.shapes(sites), **head_shapes(sites)}

    def all_begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        """`begin`, and the head of a classifier as it is."""
        found = self.begin(beginning)
        for site in beginning.sites.heads:
            weight, bias = beginning.read(site)
            found[head_key(site, "weight")] = weight
            if bias is not None:
                found[head_key(site, "bias")] = bias
        return found

    def check_tasks(self, where: str) -> None:
        """Refuses tasks that it has no parts for.

        Raises:
            InputError: it needs the names of its tasks and has none, or one cannot be a name.
        """
        if self.by_task and not self.tasks:
            raise InputError(
                f"the form {self.name} has parts for each task, and none is named", where=where, fix="Train it again"
            )

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """What it is, as plain data."""
        return {
            "name": cls.name,
            "source": cls.source,
            "when": cls.when,
            "folds": not cls.why_not,
            "why_not": cls.why_not,
            "by_task": cls.by_task,
            "traps": cls.traps,
            "parameters": described_options(cls.Options),
        }


def head_key(site: LinearSite, leaf: str) -> str:
    """The name of the tensor that stands in place of one of a head's."""
    return f"head.{site.module}.{leaf}"


def head_shapes(sites: ModelSites) -> Shapes:
    """The shapes of what stands in place of the head of a classifier; empty where there is none."""
    found: Shapes = {}
    for site in sites.heads:
        found[head_key(site, "weight")] = (site.outputs, site.inputs)
        if site.bias:
            found[head_key(site, "bias")] = (site.outputs,)
    return found


#: The tensors of a form that act at one place, by the names of its parts.
Parts = Mapping[str, "torch.Tensor"]


class LinearForm(FormOfAdapter):
    """A form that changes what linear layers compute, and folds into their weights and biases.

    Its tensors are called MODULE.PART; a part that several layers share has a name of its own (`key`).
    """

    def chosen(self, sites: ModelSites) -> tuple[LinearSite, ...]:
        """The layers that it changes: every linear layer of the model's layers.

        Raises:
            InputError: the form does not fit this model.
        """
        return sites.linear

    @abstractmethod
    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        """The shape of every part of one layer.

        Raises:
            InputError: the form does not fit this layer.
        """

    def key(self, site: LinearSite, part: str, sites: ModelSites) -> str:
        """The name of the tensor that is a part of a layer."""
        return f"{site.module}.{part}"

    @abstractmethod
    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        """The parts of one layer at the start, in float32."""

    @abstractmethod
    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        """What the layer computes.

        Args:
            site: the layer.
            parts: its tensors.
            x: what it reads, (..., inputs).
            plain: what the layer computes without the form.
            task: number of the task, for forms that have parts for each; -1 for none of them.

        Returns:
            (..., outputs).
        """

    @abstractmethod
    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is added to the layer's weight, (outputs, inputs), and to its bias: all float32, and so is what it gets.

        None for the bias where it stays as it is.
        """

    def product(self, site: LinearSite, parts: Parts, task: int) -> Product | None:
        """The change of the weight as a product of two factors, where it is one; then the bias stays as it is."""
        return None

    def changes_bias(self, site: LinearSite) -> bool:
        """Whether the layer's bias changes too."""
        return False

    def shapes(self, sites: ModelSites) -> Shapes:
        found: Shapes = {}
        for site in self.chosen(sites):
            for part, shape in self.parts(site, sites).items():
                key = self.key(site, part, sites)
                if found.setdefault(key, shape) != shape:
                    raise InputError(
                        f"{site.module} would share {key}, {list(found[key])}, and needs {list(shape)}",
                        where=sites.where,
                        fix="Use a form that shares nothing",
                    )
        return found

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for site in self.chosen(beginning.sites):
            for part, value in self.begin_at(site, beginning).items():
                found.setdefault(self.key(site, part, beginning.sites), value)
        return found

    def parts_of(self, site: LinearSite, sites: ModelSites, tensors: Parts) -> dict[str, torch.Tensor]:
        """The tensors of one layer, by part."""
        return {part: tensors[self.key(site, part, sites)] for part in self.parts(site, sites)}

    def attach(self, attached: Attached) -> None:
        for site in self.chosen(attached.sites):
            attached.replace(site.module, self._computed(site, attached))

    def _computed(self, site: LinearSite, attached: Attached) -> Callable[..., torch.Tensor]:
        parts = self.parts_of(site, attached.sites, attached.tensors)

        def forward(plain: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            return self.forward(site, parts, x, plain, attached.task)

        return forward


class NetworkForm(FormOfAdapter):
    """A form that changes what a network computes elsewhere than in its linear layers: it says why it does not fold."""
