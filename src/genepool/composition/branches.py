"""The gradient of coefficients of LoRA skills without the gradient of any weight: factors run beside the base.

A skill's change of a linear layer is `s B A`, so `<g, s B A> = s sum((d B) * (X A^T))`, where d is the gradient of the
layer's output and X its input. Each layer adds `c s (X A^T) B^T` to what it returns, and autograd takes that sum. The
weights stay the base's, in whatever type they are. What is no LoRA of a linear layer takes `gradient`. Uses `vectors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.gradient import MergedNetwork, torch_wide
from genepool.composition.linear_layers import LinearLayer, linear_layers
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError
from genepool.tasks.models import open_model
from genepool.tasks.network import Network
from genepool.weights import Change

if TYPE_CHECKING:
    import torch

# Slopes taken in two ways differ by rounding, far less where numbers have four bytes. A weight that is used elsewhere
# too, or not by its layer, makes a difference of the size of the slope itself.
_AGREE, _NOISE = 0.1, 1e-3


def why_no_branches(skills: SkillSet, changes: Sequence[Change]) -> str:
    """Why the skills cannot run beside the base; empty where they can. Headers and factors alone are read.

    Args:
        skills: the base and the skills.
        changes: of the skills, in the layout of memory, as they are composed.
    """
    kind = open_model(skills.base).kind
    network = kind.outline(skills.base) if issubclass(kind, Network) else None
    if network is None:
        return "its config does not tell which tensors are linear layers"
    layers = linear_layers(network)
    vectors = skills.vectors(changes=changes)
    for name in vectors.names:
        if name not in layers:
            return f"{name} is no weight of a linear layer alone"
        for skill in vectors.holders(name):
            if vectors.factors(skill, name) is None:
                return f"{skills.names[skill]} changes {name} by no product of two factors"
    return ""


def check_branches(skills: SkillSet) -> None:
    """Refuses skills that cannot run beside the base; headers and factors alone are read.

    Raises:
        InputError: a skill is no LoRA of linear layers; it is named with the tensor.
    """
    if why := why_no_branches(skills, skills.memory_changes):
        raise InputError(
            f"the skills cannot stand beside the base: {why}",
            where=skills.reference,
            fix="Name LoRA adapters (`genepool skill extract TUNED --base BASE --rank 16` makes one of a fine-tune), "
            "or compose with twin_merging",
        )


def factor_bytes(skills: SkillSet, changes: Sequence[Change]) -> dict[str, int]:
    """Bytes that the factors of each skill take in float32, by the skill's name; empty where none holds any."""
    found = {}
    for name, change in zip(skills.names, changes, strict=True):
        products = [change.factors(own) for own in change.names()]
        found[name] = sum(4 * (one.left.numel() + one.right.numel()) for one in products if one is not None)
    return found if any(found.values()) else {}


class BranchedNetwork:
    """A network whose linear layers add what LoRA skills add; it is asked how a loss changes with the coefficients.

    It stands where `MergedNetwork` does. Layers add up only inside `adding`.

    Args:
        network: the base, loaded; its tensors stay as they are.
        vectors: the skills, all of which change linear layers by products.
        layout: the coefficients: one for each tensor, or for each row of one.
    """

    def __init__(self, network: Network, vectors: TaskVectors, layout: CoefficientLayout) -> None:
        import torch

        self.network, self.vectors, self.layout = network, vectors, layout
        layers = linear_layers(network.model)
        self._branches = [_Branch(vectors, name, layers[name], layout, network.device) for name in vectors.names]
        self._merged = MergedNetwork(network, vectors, layout)
        self._coefficients = torch.zeros(layout.shape)

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Inside, layers add what the skills add; after it the network holds no weights anyone knows."""
        handles: list[Any] = []
        try:
            for place, branch in enumerate(self._branches):
                handles.append(branch.layer.module.register_forward_hook(self._hook(place, branch), with_kwargs=True))
            # No weight asks for a gradient.
            with self.network.changing(()):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, place: int, branch: _Branch) -> Callable[..., torch.Tensor]:
        def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
            given = args[0] if args else next(iter(kwargs.values()))
            return output + branch.added(given, self._coefficients[branch.holders, place]).to(output.dtype)

        return add

    def put(self, coefficients: torch.Tensor) -> None:
        """Makes the network the composition of these coefficients.

        Args:
            coefficients: shape (skills, tensors, parts).
        """
        self._coefficients = coefficients.detach().to(self.network.device, copy=True).requires_grad_(True)

    def gradient(self, losses: Sequence[Callable[[], torch.Tensor]]) -> tuple[float, torch.Tensor]:
        """The sum of some losses and its gradient with respect to the coefficients; see `MergedNetwork.gradient`."""
        import torch

        total, self._coefficients.grad = 0.0, None
        with torch.enable_grad():
            for loss in losses:
                value = loss()
                total += float(value.detach())
                if value.requires_grad:
                    value.backward()  # type: ignore[no-untyped-call]
        return total, self._slopes()

    def _slopes(self) -> torch.Tensor:
        import torch

        found = self._coefficients.grad
        return torch.zeros(self.layout.shape, dtype=torch.float64) if found is None else found.double().cpu()

    def unlike(self, loss: Callable[[], torch.Tensor]) -> str:
        """The first tensor whose slopes are not those that the gradient of its weight has; empty where there is none.

        A network may use a weight without its layer, or in two places, which no name tells. One backward pass at the
        coefficients that were put does: both sides come out of it.

        Args:
            loss: of some inputs.
        """
        self._coefficients.grad = None
        _, expected = self._merged.gradient([loss])
        found = self._slopes()
        size, off = expected.square().sum((0, 2)).sqrt(), (found - expected).square().sum((0, 2)).sqrt()
        wrong = off > _AGREE * size + _NOISE * size.max()
        return self.vectors.names[int(wrong.nonzero()[0])] if bool(wrong.any()) else ""


class _Branch:
    """All skills of one linear layer, side by side: `rank` is the sum of theirs.

    Args:
        vectors: the skills.
        name: the layer's matrix.
        layer: the layer.
        layout: the coefficients.
        device: where the network is.
    """

    def __init__(
        self, vectors: TaskVectors, name: str, layer: LinearLayer, layout: CoefficientLayout, device: torch.device
    ) -> None:
        import torch

        self.layer, self.holders = layer, vectors.holders(name)
        products = [vectors.factors(skill, name) for skill in self.holders]
        known = [product for product in products if product is not None]
        assert len(known) == len(products)
        wide = torch_wide(next(layer.module.parameters()))
        # (rows, rank) and (rank, columns) of the matrix as it is stored.
        self._left = torch.cat([one.left.to(device, wide) * one.factor for one in known], 1)
        self._right = torch.cat([one.right.to(device, wide) for one in known])
        ranks = [one.left.shape[1] for one in known]
        self._owners = torch.repeat_interleave(torch.arange(len(known)), torch.tensor(ranks)).to(device)
        self._by_rows = layout.by_rows

    def added(self, inputs: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """What the skills add to the layer's output.

        Args:
            inputs: of the layer, shape (..., inputs).
            scales: of the holders, shape (holders, parts).

        Returns:
            Shape (..., outputs), in the type that the factors are held in.
        """
        wide = inputs.to(self._left.dtype)
        each = scales.to(wide.dtype)[self._owners]
        left = self._left
        if self._by_rows:
            # A tensor may have fewer rows than there are parts.
            left = left * each[:, : len(left)].T
        first, second = (left, self._right) if self.layer.transposed else (self._right.T, left.T)
        inner = wide @ first
        return (inner if self._by_rows else inner * each[:, 0]) @ second
