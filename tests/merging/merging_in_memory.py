"""Merging small models in memory, through the same door as files; what the tests of merge methods share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from genepool.merging import Recipe, find_method, plan_merge
from genepool.weights.in_memory import TensorWeights

TENSORS = ("layers.0.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight", "layers.2.mlp.up_proj.weight", "norm.weight")


def merge(
    method: str,
    base: dict[str, torch.Tensor] | None,
    models: Sequence[dict[str, torch.Tensor]],
    per_model: Sequence[dict[str, Any]] = (),
    seed: int = 0,
    device: str = "cpu",
    **parameters: Any,
) -> dict[str, torch.Tensor]:
    """Merges tensors in memory through the same door as files."""
    sources = {f"m{i}": TensorWeights(tensors, f"m{i}") for i, tensors in enumerate(models)}
    if base is not None:
        sources["base"] = TensorWeights(base, "base")
    own = list(per_model) or [{} for _ in models]
    recipe = Recipe(
        method=method,
        base="base" if base is not None else None,
        models=[{"model": f"m{i}", "parameters": values} for i, values in enumerate(own)],
        parameters=parameters,
        seed=seed,
        # Values at the ends of their range are what properties are about.
        lenient=True,
    )
    merged = plan_merge(recipe, sources, statistics=drawn_statistics(method, sources)).weights(device)
    return {name: merged.read(name) for name in merged.names()}


def drawn_statistics(method: str, sources: dict[str, TensorWeights]) -> tuple[TensorWeights, dict[str, str]] | None:
    """Statistics of every model for a method that needs them, drawn for the model's name."""
    kind = find_method(method).statistic
    if kind is None:
        return None
    found: dict[str, torch.Tensor] = {}
    for name, weights in sources.items():
        generator = torch.Generator().manual_seed(sum(name.encode()))
        for tensor in weights.names():
            shape = weights.info(tensor).shape
            if kind == "fisher":
                found[f"fisher/{name}/{tensor}"] = torch.rand(shape, generator=generator)
            elif len(shape) == 2:
                inputs = torch.randn(20, shape[1], generator=generator)
                found[f"gram/{name}/{tensor}"] = inputs.T @ inputs / 20
    return TensorWeights(found, "statistics"), {name: name for name in sources}


def one(values: Sequence[float]) -> dict[str, torch.Tensor]:
    """A model of one vector."""
    return {"norm.weight": torch.tensor(values, dtype=torch.float32)}


def drawn(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(6, 5, generator=generator) for name in TENSORS}


def added(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: a[name] + b[name] for name in a}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert set(a) == set(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=tolerance)
