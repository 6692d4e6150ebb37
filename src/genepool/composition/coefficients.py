"""How much of each skill goes into each tensor: the coefficients of a merge, and what few numbers they are made of.

The core of this room gives the gradient with respect to one coefficient for each (skill, tensor, part). A
parametrisation says how these are made of what is learned, in a few lines of torch; autograd's chain rule does the
rest. Uses the roles of tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from genepool.kernels.random_draws import uniform
from genepool.seeding import derive
from genepool.weights import Weights, infer_roles
from genepool.weights.roles import layer_counts

if TYPE_CHECKING:
    import torch

#: What may share one coefficient: all tensors, those of a layer, those of a part (attention, mlp, ...), or none.
Sharing = Literal["task", "layer", "role", "tensor"]


@dataclass(frozen=True)
class CoefficientLayout:
    """The coefficients of a merge: one for each skill, tensor and part of the tensor.

    Attributes:
        skills: how many skills there are.
        names: the tensors.
        parts: how many parts a tensor is divided into; where they are rows, of the tensor with the most rows.
        seed: decides which entries belong to which part.
        by_rows: each row of a tensor is a part.
    """

    skills: int
    names: tuple[str, ...]
    parts: int = 1
    seed: int = 0
    by_rows: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(skills, tensors, parts)."""
        return self.skills, len(self.names), self.parts

    def part_of(self, name: str, start: int, stop: int, columns: int) -> torch.Tensor | None:
        """Which part each entry of some rows of a tensor is in; nothing is stored.

        Args:
            name: the tensor.
            start, stop: the rows.
            columns: of the tensor as a matrix.

        Returns:
            Shape ((stop - start) * columns,), int64; None where there is one part.
        """
        import torch

        if self.by_rows:
            return torch.arange(start, stop).repeat_interleave(columns)
        if self.parts == 1:
            return None
        drawn = uniform((stop - start) * columns, derive(self.seed, "part", name), start * columns)
        # Draws are below 1, and a product with it may still round up to the number of parts.
        return (drawn * self.parts).to(torch.int64).clamp_max_(self.parts - 1)


class Parametrisation(ABC):
    """What is learned, and the coefficients made of it."""

    @abstractmethod
    def start(self) -> dict[str, torch.Tensor]:
        """What is learned, by name, as it is before the first step: float32."""

    @abstractmethod
    def coefficients(self, learned: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The coefficients, shape (skills, tensors, parts), by operations that autograd follows."""

    def in_step(self, learned: Mapping[str, torch.Tensor], step: int) -> torch.Tensor:
        """The coefficients that a step, counted from 0, is taken with: the same, unless a draw belongs to the step."""
        return self.coefficients(learned)

    def by_tensor(self) -> list[Parametrisation] | None:
        """The same for each tensor by itself; None where tensors share something that is learned, or steps draw.

        Whatever is learned then has one place for each tensor, in their order, along its second dimension; a
        parametrisation of the list makes a tensor's coefficients, shape (skills, 1, parts), of its own place.
        """
        return None


class SharedScales(Parametrisation):
    """One number for each skill and group of tensors (and part).

    Args:
        layout: the coefficients.
        groups: the group of each tensor, counted from 0.
        start: every number at the beginning.
        softmax: the coefficients of a group are the softmax of the numbers over the skills, so they add up to 1.
    """

    def __init__(
        self, layout: CoefficientLayout, groups: Sequence[int], start: float, *, softmax: bool = False
    ) -> None:
        import torch

        self._layout, self._start, self._softmax = layout, start, softmax
        self._groups = torch.tensor(groups)
        self._shared = list(groups) != list(range(len(layout.names)))

    def start(self) -> dict[str, torch.Tensor]:
        import torch

        count = int(self._groups.max()) + 1
        return {"scale": torch.full((self._layout.skills, count, self._layout.parts), self._start)}

    def coefficients(self, learned: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scale = learned["scale"].softmax(0) if self._softmax else learned["scale"]
        return scale[:, self._groups]

    def by_tensor(self) -> list[Parametrisation] | None:
        if self._shared:
            return None
        layouts = [replace(self._layout, names=(name,)) for name in self._layout.names]
        return [SharedScales(one, [0], self._start, softmax=self._softmax) for one in layouts]


class DepthLine(Parametrisation):
    """A line over depth for each skill: `alpha + beta l / (L - 1)` in layer l of L (LiNeS, arXiv:2410.17146).

    Tensors before the layers have depth 0, those behind them 1.

    Args:
        layout: the coefficients.
        depths: of each tensor, from 0 to 1.
        alpha, beta: of every skill at the beginning.
    """

    def __init__(self, layout: CoefficientLayout, depths: Sequence[float], alpha: float, beta: float) -> None:
        import torch

        self._layout, self._from, self._slope = layout, alpha, beta
        self._depths = torch.tensor(depths)

    def start(self) -> dict[str, torch.Tensor]:
        import torch

        skills = self._layout.skills
        return {"alpha": torch.full((skills,), self._from), "beta": torch.full((skills,), self._slope)}

    def coefficients(self, learned: Mapping[str, torch.Tensor]) -> torch.Tensor:
        line = learned["alpha"][:, None] + learned["beta"][:, None] * self._depths
        return line[:, :, None].expand(self._layout.shape)


def groups_of(base: Weights, names: Sequence[str], by: Sharing) -> list[int]:
    """The group of each tensor, counted from 0 in the order of the tensors.

    Args:
        base: tells the roles.
        names: the tensors.
        by: what shares a coefficient. Of layers, what stands outside them is grouped by its role.
    """
    if by == "task":
        return [0] * len(names)
    roles = infer_roles({name: base.info(name) for name in base.names()})
    found: dict[object, int] = {}
    groups = []
    for name in names:
        role = roles[name]
        key: object = name
        if by == "role":
            key = role.part
        elif by == "layer":
            key = role.part if role.layer is None else (role.stack, role.layer)
        groups.append(found.setdefault(key, len(found)))
    return groups


def depths_of(base: Weights, names: Sequence[str]) -> list[float]:
    """How deep each tensor lies: 0 in front of the layers and in the first, 1 in the last and behind them."""
    roles = infer_roles({name: base.info(name) for name in base.names()})
    counts = layer_counts(roles)
    order = list(base.names())
    last = max((at for at, name in enumerate(order) if roles[name].layer is not None), default=0)
    found = []
    for name in names:
        role = roles[name]
        if role.layer is not None:
            found.append(role.layer / max(1, counts[role.stack] - 1))
        else:
            found.append(float(role.part == "head" or (role.part == "norm" and order.index(name) > last)))
    return found
