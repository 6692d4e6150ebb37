"""Batches of one example: an adapter learns from the last examples together, once as many have come anew.

As in the released code of RMT and ROID: the window goes on by one with every example; where all of it is new the
adapter predicts and learns from it as from a batch, and of that prediction the last row is issued. Others are predicted
alone, or within the window where a batch norm needs it. What a window holds follows from the number of the example, so
there is no state. Uses the adapter alone; `Adaptation` drives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from genepool.adaptation.adapter import Signals, StreamAdapter, StreamBatch
from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

    from genepool.adaptation.orders import PlannedBatch
    from genepool.adaptation.stream import Stream


class SlidingWindow:
    """Stands between an adaptation and its adapter.

    Args:
        adapter: who predicts and learns.
        size: examples of the window.
        batches: of the run, of one example each.
        read: makes the batch of some planned ones.
    """

    def __init__(
        self,
        adapter: StreamAdapter,
        size: int,
        batches: Sequence[PlannedBatch],
        read: Callable[[Sequence[PlannedBatch]], StreamBatch],
    ) -> None:
        self._adapter, self._size, self._batches, self._read = adapter, size, batches, read
        # Where each example's window may begin at the earliest: what came before a reset is over.
        self._starts: list[int] = []
        for one in batches:
            self._starts.append(one.number if one.fresh or not self._starts else self._starts[-1])

    def predict(self, plan: PlannedBatch) -> torch.Tensor:
        """What is issued for one example, shape (1, classes)."""
        if self._is_new(plan):
            return self._adapter.predict(self._window(plan))[-1:]
        alone = not self._adapter.model.has_batch_norm
        seen = self._read([plan]) if alone else self._window(plan)
        return self._adapter.look(seen.inputs)[-1:]

    def update(self, plan: PlannedBatch) -> Signals:
        """Learns from the window where all of it is new; what became of the last example."""
        if not self._is_new(plan):
            return Signals.all_alike(1, kept=False)
        found = self._adapter.update(self._window(plan), [])
        return Signals(found.kept[-1:], found.weight[-1:], found.reset)

    def _is_new(self, plan: PlannedBatch) -> bool:
        return (plan.number + 1 - self._starts[plan.number]) % self._size == 0

    def _window(self, plan: PlannedBatch) -> StreamBatch:
        start = max(self._starts[plan.number], plan.number + 1 - self._size)
        return self._read(self._batches[start : plan.number + 1])


def check_window(size: int, stream: Stream, adapter: StreamAdapter) -> None:
    """Refuses a window where there is nothing for it to do.

    Raises:
        InputError: naming why.
    """
    wrong = ""
    if size < 2:
        wrong = f"must be at least 2, got {size}"
    elif stream.batch != 1:
        wrong = f"is for batches of one example, and those of {stream.name} have {stream.batch}"
    elif stream.horizon:
        wrong = "is for examples one by one, and a series is learned from as its truth comes"
    elif "late labels" in adapter.needs:
        wrong = f"is for adapters that need no labels, and {adapter.name} does"
    if wrong:
        raise InputError(wrong, where="--window", fix="Leave it out" if size > 1 else "Give 2 or more")
