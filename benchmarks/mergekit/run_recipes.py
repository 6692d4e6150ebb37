"""Merges recipes by mergekit in one process, as `mergekit-yaml` merges them, with random numbers that it is given.

Run by the Python of mergekit's own environment; uses nothing of genepool. Starting mergekit takes far longer than a
merge of tiny models. Arguments: a safetensors file of random numbers, then pairs of a recipe and an output folder. The
numbers of a tensor and of its task vector i lie under `TENSOR/i`, uniform in [0, 1), one for each entry.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.merge_methods import generalized_task_arithmetic
from mergekit.options import MergeOptions
from safetensors.torch import load_file


def draw_from(numbers: dict[str, torch.Tensor]) -> None:
    """Makes the methods that drop entries at random draw these numbers, and all else as it was."""
    arithmetic = generalized_task_arithmetic.GeneralizedTaskArithmeticMerge
    merge_group, sparsify = arithmetic.merge_group, generalized_task_arithmetic.sparsify
    place: dict[str, Any] = {}

    def merge_named(self: Any, group: Any, /, **parameters: Any) -> torch.Tensor:
        place["name"], place["vectors"] = group.metadata.name, iter(range(len(group.entries)))
        merged: torch.Tensor = merge_group(self, group, **parameters)
        return merged

    def sparsify_numbered(tensor: torch.Tensor, **settings: Any) -> torch.Tensor:
        vectors: Iterator[int] = place["vectors"]
        place["vector"] = next(vectors)
        sparse: torch.Tensor = sparsify(tensor, **settings)
        return sparse

    def bernoulli(chances: torch.Tensor) -> torch.Tensor:
        drawn = numbers[f"{place['name']}/{place['vector']}"].reshape(chances.shape)
        return (drawn < chances).to(chances.dtype)

    arithmetic.merge_group = merge_named
    generalized_task_arithmetic.sparsify = sparsify_numbered
    torch.bernoulli = bernoulli


def main() -> None:
    draws, *words = sys.argv[1:]
    draw_from(load_file(draws))
    for file, out in zip(words[::2], words[1::2], strict=True):
        LoaderCache().loaders.clear()
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
        run_merge(config, out, MergeOptions(quiet=True, write_model_card=False))


if __name__ == "__main__":
    main()
