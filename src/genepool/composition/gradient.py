"""The gradient of a loss with respect to the coefficients of a merge, at the cost of one backward pass.

`th = th0 + sum_i c_i t_i` is linear in c, so `dL/dc_i = <dL/dth, t_i>`, for every tensor and every part of one: exact,
and without k copies of the network. Each inner product is taken as soon as backward has the gradient of a tensor, which
is then dropped, so there is never more than one tensor's gradient. A tensor whose coefficients depend on nothing else
can be merged anew right then, while its vectors are at hand (`Move`). Uses `vectors`; the objectives give the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

    from genepool.tasks.network import Network

    #: Rows of a tensor: where they start and stop, and every holder's change of them.
    Blocks: TypeAlias = Iterable[tuple[int, int, torch.Tensor]]

    #: What becomes of a tensor's coefficients when their gradient is known: its number in `TaskVectors.names` and the
    #: gradient, shape (skills, parts) -> the new coefficients, in the same shape.
    Move: TypeAlias = Callable[[int, torch.Tensor], torch.Tensor]


class MergedNetwork:
    """A network in memory that holds a merge, and is asked how a loss changes with the coefficients.

    Args:
        network: the base, loaded; its tensors are changed in place.
        vectors: the skills.
        layout: the coefficients.
        add_up: sum the gradients of several micro-batches, which takes one more copy of the changed tensors, and read
            every vector once a step. Otherwise each micro-batch reads them.
        at_hand: bytes; a tensor whose vectors take no more keeps them between its gradient and its move, and a larger
            one reads them again.

    Raises:
        InputError: a tensor that a skill changes is no parameter of the network in this layout.
    """

    def __init__(
        self,
        network: Network,
        vectors: TaskVectors,
        layout: CoefficientLayout,
        *,
        add_up: bool = False,
        at_hand: int = 0,
    ) -> None:
        self.network, self.vectors, self.layout = network, vectors, layout
        self.add_up, self.at_hand = add_up, at_hand
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
        for place, name in enumerate(self.vectors.names):
            self.put_tensor(name, coefficients[self.vectors.holders(name), place], self.vectors.blocks(name))

    def put_tensor(self, name: str, scales: torch.Tensor, blocks: Blocks) -> None:
        """Makes one tensor the merge of its coefficients.

        Args:
            name: the tensor.
            scales: of its holders, shape (holders, parts).
            blocks: its vectors.
        """
        import torch

        rows, columns = self.vectors.matrix(name)
        # Not `.data`: whatever still waits in a backward pass for the old values is to fail, and not to use the new.
        target = self._parameters[name].detach().view(rows, columns)
        with torch.no_grad():
            for start, stop, block in blocks:
                change = scaled_sum(block, scales.to(block.dtype), self.layout.part_of(name, start, stop, columns))
                held = self.vectors.base.read_rows(name, start, stop)
                target[start:stop].copy_(held.to(torch_wide(held)) + change)

    def gradient(
        self, losses: Sequence[Callable[[], torch.Tensor]], move: Move | None = None
    ) -> tuple[float, torch.Tensor]:
        """The sum of some losses and its gradient with respect to the coefficients.

        Args:
            losses: each computes the loss of one micro-batch by the network, with gradients on.
            move: where it is given, each tensor becomes the merge of the coefficients that it returns, in the backward
                pass of the last micro-batch. Nothing moves where the sum is no finite number.

        Returns:
            The sum; and the gradient, shape (skills, tensors, parts), float64, on the processor.
        """
        import torch

        found = torch.zeros(self.layout.shape, dtype=torch.float64)
        total = 0.0
        with self._collecting(found, move) as collector, torch.enable_grad():
            for number, loss in enumerate(losses, 1):
                collector.last = number == len(losses)
                value = loss()
                total += float(value.detach())
                if move is not None and not math.isfinite(total):
                    return total, found
                if value.requires_grad:
                    value.backward()  # type: ignore[no-untyped-call]
            collector.finish()
        return total, found

    @contextmanager
    def _collecting(self, found: torch.Tensor, move: Move | None) -> Iterator[_Collector]:
        collector = _Collector(self, found, move)
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

    def inner_products(self, name: str, gradient: torch.Tensor, blocks: Blocks) -> torch.Tensor:
        """`<gradient, t_i>` for every skill that changes a tensor, part by part: shape (holders, parts), float64.

        Products are added in the gradient's type within blocks of 2^18 entries, and in float64 over them.

        Args:
            name: the tensor.
            gradient: in its shape.
            blocks: its vectors.
        """
        import torch

        rows, columns = self.vectors.matrix(name)
        total = torch.zeros(len(self.vectors.holders(name)), self.layout.parts, dtype=torch.float64)
        matrix = gradient.view(rows, columns)
        for start, stop, block in blocks:
            slope = matrix[start:stop].reshape(-1)
            slope = slope.to(torch_wide(slope))
            block = block.to(slope.device, slope.dtype).flatten(1)
            parts = self.layout.part_of(name, start, stop, columns)
            if parts is None:
                total[:, 0] += (block @ slope).double().cpu()
            else:
                sums = torch.zeros(total.shape, dtype=torch.float64, device=slope.device)
                total += sums.index_add_(1, parts.to(slope.device), (block * slope).double()).cpu()
        return total


class _Collector:
    """Turns the gradient of each tensor into inner products as it comes, and moves it where it is to be moved."""

    def __init__(self, merged: MergedNetwork, found: torch.Tensor, move: Move | None) -> None:
        self._merged, self._found, self._move = merged, found, move
        self._to_move = set() if move is None else set(range(len(merged.vectors.names)))
        self.last = True
        self.pending: dict[str, torch.nn.Parameter] = {}

    def hook(self, place: int, name: str) -> Callable[[torch.nn.Parameter], None]:
        def collect(parameter: torch.nn.Parameter) -> None:
            if self._merged.add_up and not self.last:
                return
            self._take(place, name, parameter)

        return collect

    def finish(self) -> None:
        """Takes what stands in parameters that the last micro-batch did not use, and moves the tensors of those."""
        for place, name in enumerate(self._merged.vectors.names):
            if self.pending[name].grad is not None:
                self._take(place, name, self.pending[name])
        for place in sorted(self._to_move):
            name = self._merged.vectors.names[place]
            self._move_tensor(place, name, self._merged.vectors.blocks(name))

    def _take(self, place: int, name: str, parameter: torch.nn.Parameter) -> None:
        merged = self._merged
        assert parameter.grad is not None
        moves = self.last and place in self._to_move
        blocks = merged.vectors.blocks(name, merged.at_hand if moves else 0)
        products = merged.inner_products(name, parameter.grad, blocks)
        self._found[merged.vectors.holders(name), place] += products
        parameter.grad = None
        if moves:
            self._move_tensor(place, name, blocks)

    def _move_tensor(self, place: int, name: str, blocks: Blocks) -> None:
        assert self._move is not None
        self._to_move.remove(place)
        scales = self._move(place, self._found[:, place])
        self._merged.put_tensor(name, scales[self._merged.vectors.holders(name)], blocks)


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
