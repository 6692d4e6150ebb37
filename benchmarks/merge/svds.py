"""The bare SVDs that a method of the singular-value family cannot do without, over the same matrices.

`python -m benchmarks.merge.svds METHOD BASE EXPERT [EXPERT ...]` reads the checkpoints, computes the decompositions of
every matrix inside the layers and throws them away; timed as a whole process beside the method itself.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


def tsv_m(deltas: Sequence[torch.Tensor]) -> None:
    """One of each task vector, and two of the kept vectors side by side (their polar factors)."""
    kept = max(1, min(deltas[0].shape) // len(deltas))
    left, right = [], []
    for delta in deltas:
        u, _, v = torch.linalg.svd(delta, full_matrices=False)
        left.append(u[:, :kept])
        right.append(v[:kept])
    torch.linalg.svd(torch.cat(left, dim=1), full_matrices=False)
    torch.linalg.svd(torch.cat(right), full_matrices=False)


def iso_c(deltas: Sequence[torch.Tensor]) -> None:
    """One of the sum of the task vectors."""
    torch.linalg.svd(sum(deltas[1:], deltas[0]), full_matrices=False)


def iso_cts(deltas: Sequence[torch.Tensor]) -> None:
    """One of the sum, one of each task vector without the common space, and two of the bases (their polar factors)."""
    total = sum(deltas[1:], deltas[0])
    u, _, v = torch.linalg.svd(total, full_matrices=False)
    rank = min(total.shape)
    common = round(0.8 * rank)
    own = (rank - common) // len(deltas)
    left, right = [u[:, :common]], [v[:common]]
    for delta in deltas:
        rest = delta - left[0] @ (left[0].T @ delta)
        u, _, v = torch.linalg.svd(rest, full_matrices=False)
        left.append(u[:, :own])
        right.append(v[:own])
    torch.linalg.svd(torch.cat(left, dim=1), full_matrices=False)
    torch.linalg.svd(torch.cat(right), full_matrices=False)


METHODS = {"tsv_m": tsv_m, "iso_c": iso_c, "iso_cts": iso_cts}


def decompose_all(method: str, base: Path, experts: Sequence[Path]) -> int:
    """Runs the decompositions of `method` for every matrix inside the layers; returns how many matrices those are.

    As many matrices side by side as there are cores, with one thread each, as `genepool merge` does it.
    """
    torch.set_num_threads(1)
    with ExitStack() as stack, ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        # The readers are shared by the threads: reading is no part worth its own.
        files: list[Any] = [
            stack.enter_context(safe_open(folder / "model.safetensors", "pt")) for folder in (base, *experts)
        ]
        names = layer_matrices({name: files[0].get_slice(name).get_shape() for name in files[0].keys()})  # noqa: SIM118

        def work(name: str) -> None:
            start = files[0].get_tensor(name).float()
            METHODS[method]([file.get_tensor(name).float() - start for file in files[1:]])

        return len(list(pool.map(work, names)))


def layer_matrices(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Names of the matrices inside the layers: neither embedding nor head, which these methods average."""
    return [name for name, shape in shapes.items() if len(shape) == 2 and re.search(r"\.\d+\.", name)]


if __name__ == "__main__":
    decompose_all(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
