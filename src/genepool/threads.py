"""How many threads torch computes with while a block runs: part of what makes a result repeatable to the last bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
