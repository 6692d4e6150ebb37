"""An inventory of low-rank modules that tasks share, and each task's own share of every module: Poly and MHR.

A module has a pair of factors in each linear layer. They are cut into heads, and each head of a task is a mixture of
its own, so the two factors are mixed apart by design. For a task the mixture is one LoRA. Uses weights and tasks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genepool.composition.linear_layers import LinearLayer
from genepool.composition.skill_set import SkillSet
from genepool.seeding import torch_generator
from genepool.weights import Change, Weights
from genepool.weights.encodings.low_rank import Product

# As in PEFT's and the authors' code: what keeps a share of modules that are all off finite.
_EPSILON = 1e-12


@dataclass
class LayerModules:
    """All modules of one linear layer.

    Attributes:
        down: the first factors, (heads, modules, inputs / heads, rank).
        up: the second ones, (heads, modules, rank, outputs / heads).
        logits: of every task, (tasks, heads * modules).
    """

    down: torch.Tensor
    up: torch.Tensor
    logits: torch.Tensor

    @property
    def heads(self) -> int:
        """How many heads the factors are cut into."""
        return len(self.down)

    def shares(self, task: int) -> torch.Tensor:
        """The shares of the modules in each head of a task, (heads, modules): they add up to 1 in each head."""
        on = self.logits[task].view(self.down.shape[:2]).sigmoid()
        return on / (on.sum(-1, keepdim=True) + _EPSILON)

    def mixed(self, task: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors of a task's LoRA: (inputs, rank) and (rank, outputs)."""
        shares = self.shares(task)
        down = torch.einsum("qs,qsdr->qdr", shares, self.down)
        up = torch.einsum("qs,qsrd->rqd", shares, self.up)
        return down.flatten(0, 1), up.flatten(1, 2)

    def drawn(self, task: int, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Shares that are drawn for each of some rows, (rows, heads, modules): they add up to 1 in each head.

        Every module is on by a relaxed Bernoulli variable of temperature 1, `sigmoid(logit + log u - log(1 - u))`.
        """
        heads, count = self.down.shape[:2]
        # As torch's own distributions do: the logarithm of neither end is taken.
        edge = torch.finfo(torch.float32).eps
        uniform = torch.rand(rows, heads, count, generator=generator).clamp(edge, 1 - edge).to(self.logits)
        on = (self.logits[task].view(heads, count) + uniform.log() - (-uniform).log1p()).sigmoid()
        return on / (on.sum(-1, keepdim=True) + _EPSILON)

    def mixed_by_row(self, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors of rows that have shares of their own: (rows, inputs, rank) and (rows, rank, outputs).

        Args:
            shares: (rows, heads, modules).
        """
        down = torch.einsum("bqs,qsdr->bqdr", shares, self.down)
        up = torch.einsum("bqs,qsrd->brqd", shares, self.up)
        return down.flatten(1, 2), up.flatten(2, 3)

    def mean(self) -> LayerModules:
        """One module, the mean of all, as an inventory of its own with logits that decide nothing."""
        down, up = self.down.mean(1), self.up.mean(1).transpose(0, 1)
        return LayerModules(
            down.flatten(0, 1)[None, None].clone(), up.flatten(1, 2)[None, None].clone(), self.logits.new_zeros(1, 1)
        )


def fresh_modules(
    inputs: int, outputs: int, heads: int, modules: int, rank: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """First factors, uniform within 1 / sqrt(inputs / heads) as PEFT's Poly draws them; the second ones are 0."""
    bound = (inputs // heads) ** -0.5
    down = (torch.rand(heads, modules, inputs // heads, rank, generator=generator) * 2 - 1) * bound
    return down, torch.zeros(heads, modules, rank, outputs // heads)


def first_logits(tasks: int, heads: int, modules: int, generator: torch.Generator) -> torch.Tensor:
    """Logits between -0.001 and 0.001, (tasks, heads * modules), as the authors draw them."""
    return (torch.rand(tasks, heads * modules, generator=generator) * 2 - 1) * 1e-3


def modules_of_skills(skills: SkillSet, name: str, layer: LinearLayer, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of LoRA skills in one layer as modules; smaller ranks are filled up with zeros.

    Args:
        skills: LoRA skills, one module each.
        name: the layer's matrix.
        layer: the layer.
        heads: of the factors.
    """
    vectors = skills.vectors()
    products: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for skill in vectors.holders(name):
        product = vectors.factors(skill, name)
        assert product is not None
        left, right = product.left.float() * product.factor, product.right.float()
        products[skill] = (left, right) if layer.transposed else (right.mT, left.mT)
    rows, columns = vectors.matrix(name)
    inputs, outputs = (rows, columns) if layer.transposed else (columns, rows)
    rank = max(down.shape[1] for down, _ in products.values())
    count = len(vectors.changes)
    all_down, all_up = torch.zeros(count, inputs, rank), torch.zeros(count, rank, outputs)
    for skill, (down, up) in products.items():
        all_down[skill, :, : down.shape[1]], all_up[skill, : len(up)] = down, up
    cut_down = all_down.view(count, heads, inputs // heads, rank).transpose(0, 1)
    cut_up = all_up.view(count, rank, heads, outputs // heads).permute(2, 0, 1, 3)
    return cut_down.contiguous(), cut_up.contiguous()


class InventoryHooks:
    """Layers that add a task's mixture to what they return, from now on.

    Args:
        modules: of every layer, by the name of its matrix: the very tensors.
        layers: of the network.

    Attributes:
        task: whose mixture it is.
    """

    def __init__(self, modules: Mapping[str, LayerModules], layers: Mapping[str, LinearLayer]) -> None:
        self.task = 0
        self._draws: tuple[int, int] | None = None
        # How often each layer was asked in this step, by its name and the task: microbatches draw anew.
        self._asked: Counter[tuple[str, int]] = Counter()
        self._handles = [
            layers[name].module.register_forward_hook(self._hook(name, one), with_kwargs=True)
            for name, one in modules.items()
        ]

    def draw(self, draws: tuple[int, int] | None) -> None:
        """From now on each row's shares are drawn, for a seed and the number of a step; None: they are the means."""
        self._draws = draws
        self._asked.clear()

    def remove(self) -> None:
        """Makes the network the base again."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str, modules: LayerModules) -> Callable[..., torch.Tensor]:
        def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
            given = (args[0] if args else next(iter(kwargs.values()))).to(modules.down.dtype)
            if self._draws is None:
                down, up = modules.mixed(self.task)
                added: torch.Tensor = (given @ down) @ up
                return output + added.to(output.dtype)
            # Some networks flatten the tokens of all rows: these get one draw.
            rows = len(given) if given.dim() > 2 else 1
            down, up = modules.mixed_by_row(modules.drawn(self.task, rows, self._generator(name, *self._draws)))
            added = (given.reshape(rows, -1, given.shape[-1]) @ down) @ up
            return output + added.view_as(output).to(output.dtype)

        return add

    def _generator(self, name: str, seed: int, step: int) -> torch.Generator:
        self._asked[name, self.task] += 1
        return torch_generator(seed, "poly draws", step, self.task, name, self._asked[name, self.task])


class TaskModules(Change):
    """What an inventory changes of a base for one task: a product of two factors in each layer.

    Args:
        modules: of every layer, by the name of its matrix in memory.
        transposed: whether that matrix is (inputs, outputs).
        task: the number of the task.
        base: in the layout of memory.
        name: what the user calls it.
        identity: of the inventory, for the fingerprint.
    """

    kind: ClassVar[str] = "modules"
    base: Weights

    def __init__(
        self,
        modules: Mapping[str, LayerModules],
        transposed: Mapping[str, bool],
        task: int,
        base: Weights,
        name: str,
        identity: str,
    ) -> None:
        self.base, self.name = base, name
        self._identity = f"{identity}#{task}"
        self._products = {}
        with torch.no_grad():
            for layer, one in modules.items():
                down, up = one.mixed(task)
                left, right = (down, up) if transposed[layer] else (up.mT, down.mT)
                self._products[layer] = Product(left.contiguous(), right.contiguous())

    def names(self) -> tuple[str, ...]:
        return tuple(self._products)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        product = self._products[name]
        return product.left[start:stop] @ product.right

    def factors(self, name: str) -> Product | None:
        return self._products[name]

    def digest(self) -> str:
        return hashlib.sha256(self._identity.encode()).hexdigest()


def logits_generator(seed: int, name: str) -> torch.Generator:
    """Where the first logits of a layer come from."""
    return torch_generator(seed, "poly logits", name)


def modules_generator(seed: int, name: str) -> torch.Generator:
    """Where the first factors of a layer come from."""
    return torch_generator(seed, "poly modules", name)


def mean_shares(modules: Mapping[str, LayerModules], tasks: Sequence[str]) -> dict[str, list[float]]:
    """For each task the mean share of every module over layers and heads."""
    with torch.no_grad():
        return {
            task: [
                round(float(share), 4)
                for share in torch.stack([one.shares(number).mean(0) for one in modules.values()]).mean(0)
            ]
            for number, task in enumerate(tasks)
        }
