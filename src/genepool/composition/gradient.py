"""The gradient of a loss with respect to the coefficients of a merge, at the cost of one backward pass.

`th = th0 + sum_i c_i t_i` is linear in c, so `dL/dc_i = <dL/dth, t_i>`, for every tensor and every part of one: exact,
and without k copies of the network. Each inner product is taken as soon as backward has the gradient of a tensor, which
is then dropped, so there is never more than one tensor's gradient. Uses `vectors`; the objectives give the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError
from genepool.weights.change import block_rows

if TYPE_CHECKING:
    import torch

    from genepool.tasks.network import Network


class MergedNetwork:
    """A network in memory that holds a merge, and is asked how a loss changes with the coefficients.

    Args:
        network: the base, loaded; its tensors are changed in place.
        vectors: the skills.
        layout: the coefficients.
        add_up: sum the gradients of several micro-batches, which takes one more copy of the changed tensors, and read
            every vector once a step. Otherwise each micro-batch reads them.

    Raises:
        InputError: a tensor that a skill changes is no parameter of the network in this layout.
    """

    def __init__(
        self, network: Network, vectors: TaskVectors, layout: CoefficientLayout, *, add_up: bool = False
    ) -> None:
        self.network, self.vectors, self.layout, self.add_up = network, vectors, layout, add_up
        self._parameters: dict[str, torch.nn.Parameter] = dict(network.model.named_parameters())
        for name in vectors.names:
            if name not in self._parameters or self._parameters[name].shape != vectors.base.info(name).shape:
                raise InputError(
                    f"{name} has another name or layout in memory, so its gradient cannot be taken",
                    where=network.title,
                    fix="Save the model with `save_pretrained` and extract the skills from that",
                )

    def put(self, coefficients: torch.Tensor) -> None:
        """Makes the network the merge of these coefficients, from the base, so that no rounding adds up over steps.

        Args:
            coefficients: shape (skills, tensors, parts).
        """
        import torch

        with torch.no_grad():
            for place, name in enumerate(self.vectors.names):
                self._put_tensor(name, coefficients[self.vectors.holders(name), place])

    def _put_tensor(self, name: str, scales: torch.Tensor) -> None:
        rows, columns = self.vectors.matrix(name)
        target = self._parameters[name].data.view(rows, columns)
        for start, stop in block_rows(rows, columns):
            block = self.vectors.block(name, start, stop)
            change = scaled_sum(block, scales.to(block.dtype), self.layout.part_of(name, start, stop, columns))
            held = self.vectors.base.read_rows(name, start, stop)
            target[start:stop].copy_(held.to(torch_wide(held)) + change)

    def gradient(self, losses: Sequence[Callable[[], torch.Tensor]]) -> tuple[float, torch.Tensor]:
        """The sum of some losses and its gradient with respect to the coefficients.

        Args:
            losses: each computes the loss of one micro-batch by the network, with gradients on.

        Returns:
            The sum; and the gradient, shape (skills, tensors, parts), float64, on the processor.
        """
        import torch

        found = torch.zeros(self.layout.shape, dtype=torch.float64)
        total = 0.0
        with self._collecting(found) as collector, torch.enable_grad():
            for number, loss in enumerate(losses, 1):
                collector.last = number == len(losses)
                value = loss()
                if value.requires_grad:
                    value.backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
            collector.finish()
        return total, found

    @contextmanager
    def _collecting(self, found: torch.Tensor) -> Iterator[_Collector]:
        collector = _Collector(self, found)
        handles = []
        with self.network.changing(self.vectors.names) as parameters:
            try:
                for place, name in enumerate(self.vectors.names):
                    hook = collector.hook(place, name)
                    handles.append(parameters[name].register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
                collector.pending = dict(parameters)
                yield collector
            finally:
                for handle in handles:
                    handle.remove()

    def inner_products(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """`<gradient, t_i>` for every skill that changes a tensor, part by part: shape (holders, parts), float64.

        Products are added in the gradient's type within blocks of 2^18 entries, and in float64 over them.
        """
        import torch

        rows, columns = self.vectors.matrix(name)
        total = torch.zeros(len(self.vectors.holders(name)), self.layout.parts, dtype=torch.float64)
        matrix = gradient.view(rows, columns)
        for start, stop in block_rows(rows, columns):
            slope = matrix[start:stop].reshape(-1)
            slope = slope.to(torch_wide(slope))
            block = self.vectors.block(name, start, stop).to(slope.device, slope.dtype).flatten(1)
            parts = self.layout.part_of(name, start, stop, columns)
            if parts is None:
                total[:, 0] += (block @ slope).double().cpu()
            else:
                sums = torch.zeros(total.shape, dtype=torch.float64, device=slope.device)
                total += sums.index_add_(1, parts.to(slope.device), (block * slope).double()).cpu()
        return total


class _Collector:
    """Turns the gradient of each tensor into inner products as it comes."""

    def __init__(self, merged: MergedNetwork, found: torch.Tensor) -> None:
        self._merged, self._found = merged, found
        self.last = True
        self.pending: dict[str, torch.nn.Parameter] = {}

    def hook(self, place: int, name: str) -> Callable[[torch.nn.Parameter], None]:
        def collect(parameter: torch.nn.Parameter) -> None:
            if self._merged.add_up and not self.last:
                return
            self._take(place, name, parameter)

        return collect

    def finish(self) -> None:
        """Takes what stands in parameters that the last micro-batch did not use."""
        for place, name in enumerate(self._merged.vectors.names):
            if self.pending[name].grad is not None:
                self._take(place, name, self.pending[name])

    def _take(self, place: int, name: str, parameter: torch.nn.Parameter) -> None:
        assert parameter.grad is not None
        products = self._merged.inner_products(name, parameter.grad)
        self._found[self._merged.vectors.holders(name), place] += products
        parameter.grad = None


def scaled_sum(block: torch.Tensor, scales: torch.Tensor, parts: torch.Tensor | None) -> torch.Tensor:
    """`sum_i c_i t_i` of some rows.

    Args:
        block: the changes, shape (holders, rows, columns).
        scales: their coefficients, shape (holders, parts).
        parts: the part of each entry, shape (rows * columns,); None where there is one.

    Returns:
        Shape (rows, columns), in the type of `block`.
    """
    import torch

    if parts is None:
        return torch.einsum("h,hrc->rc", scales[:, 0], block)
    return (scales[:, parts] * block.flatten(1)).sum(0).view(block.shape[1:])


def torch_wide(tensor: torch.Tensor) -> torch.dtype:
    """The type that a sum with a tensor is computed in: float32, or float64 where it has that."""
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
