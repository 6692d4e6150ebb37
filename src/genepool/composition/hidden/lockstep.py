"""Networks that wait for each other behind every layer and exchange their hidden states there.

Each network's own forward pass runs in a thread of its own, so any architecture of transformers serves, with its own
cache and masks. What is computed does not depend on which thread is faster. Uses `layers` of steering.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch

from genepool.composition.steering.layers import Edit, edited

#: The number of a layer, and what it gave in every network -> what stands in its place in each.
Exchange = Callable[[int, list[torch.Tensor]], list[torch.Tensor]]
_Answer = TypeVar("_Answer")


def in_lockstep(
    calls: Sequence[Callable[[], _Answer]], layers: Sequence[Sequence[torch.nn.Module]], exchange: Exchange
) -> list[_Answer]:
    """Runs one call a network, and what all of them return, in order.

    Args:
        calls: each runs its network once, through all of its layers in their order.
        layers: of each network, as many as of the others.
        exchange: what happens behind each layer.
    """
    count = len(calls)
    given: list[torch.Tensor] = [torch.empty(0)] * count
    at = [0] * count
    failed: list[BaseException] = []

    def meet() -> None:
        try:
            given[:] = exchange(at[0], list(given))
        except BaseException as error:
            failed.append(error)
            raise

    barrier = threading.Barrier(count, meet)
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def waiting(own: int) -> Edit:
        def edit(number: int, states: torch.Tensor) -> torch.Tensor:
            given[own], at[own] = states, number
            barrier.wait()
            return given[own]

        return edit

    def run(own: int) -> _Answer:
        # Both modes belong to a thread.
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            try:
                return calls[own]()
            except threading.BrokenBarrierError:
                raise
            except BaseException as error:
                failed.append(error)
                barrier.abort()
                raise

    with ExitStack() as hooks:
        for own in range(count):
            hooks.enter_context(edited(layers[own], waiting(own)))
        with ThreadPoolExecutor(count) as pool:
            runs = [pool.submit(run, own) for own in range(count)]
            try:
                for one in runs:
                    one.exception()
            except BaseException:
                # Ctrl-C while waiting: nobody must wait for ever.
                barrier.abort()
                raise
    if failed:
        raise failed[0]
    return [one.result() for one in runs]
