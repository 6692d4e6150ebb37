"""Threads: how many torch computes with, part of what makes a result repeatable to the last bit; work in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_Item = TypeVar("_Item")


def core_count() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Sets torch's thread count for the block and puts the old one back; None leaves it as it is."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(
    pool: ThreadPoolExecutor | None, work: Callable[[_Item], Any], items: Iterable[_Item], threads: int
) -> Iterator[tuple[_Item, Any]]:
    """(item, work(item)) in the order of the items, worked on by a pool of `threads`, few results waiting at a time.

    Without a pool the work is done here, item by item.
    """
    if pool is None:
        yield from ((item, work(item)) for item in items)
        return
    waiting: deque[tuple[_Item, Future[Any]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > 2 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
