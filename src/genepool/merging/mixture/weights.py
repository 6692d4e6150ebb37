"""`ExpertMixture`: the tensors of a mixture of experts, read out of dense models when they are asked for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from genepool import seeding
from genepool.kernels import uniform
from genepool.merging.mixture.recipe import ExpertChoice, MixtureRecipe
from genepool.merging.mixture.shapes.shape import MATRICES, MixtureShape
from genepool.weights import TensorInfo, Weights
from genepool.weights.tensor_info import torch_dtype

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Copied:
    """A dense model's tensor, and what is done to it."""

    weights: Weights
    name: str
    noise: float = 0.0
    factor: float = 1.0


class ExpertMixture(Weights):
    """A mixture of experts as lazily read tensors.

    Args:
        recipe: what it is.
        name: what errors call it.
        base: the base.
        experts: the models of `recipe.experts`, then of `recipe.shared_experts`, in the base's layout.
        shape: its architecture.
        gates: computes the gates, `(layers, experts and gated shared experts, hidden)` float32; called once, when the
            first is read.
    """

    def __init__(
        self,
        recipe: MixtureRecipe,
        name: str,
        base: Weights,
        experts: Sequence[Weights],
        shape: MixtureShape,
        gates: Callable[[], torch.Tensor],
    ) -> None:
        assert base.config is not None
        self.recipe, self.name, self.base, self.experts = recipe, name, base, tuple(experts)
        self.folder, self.chat_template = base.folder, base.chat_template
        count, shared = len(recipe.experts), len(recipe.shared_experts)
        self.config = shape.config(base.config, count, shared, recipe.experts_per_token)
        self._compute, self._lock = gates, Lock()
        self._computed: torch.Tensor | None = None
        layers, width = int(base.config["num_hidden_layers"]), int(base.config["hidden_size"])
        self._copied: dict[str, _Copied] = {}
        self._gates: dict[str, tuple[int, int, int]] = {}
        self._zeros: dict[str, tuple[int, ...]] = {}
        dense = {f"model.layers.{i}.mlp.{matrix}.weight" for i in range(layers) for matrix in MATRICES}
        for tensor in base.names():
            if tensor not in dense:
                self._copied[tensor] = _Copied(base, tensor)
        for layer in range(layers):
            prefix = f"model.layers.{layer}"
            for number, (choice, weights) in enumerate(zip(self._choices, self.experts, strict=True)):
                for matrix in MATRICES:
                    inner = shape.expert(number, matrix) if number < count else shape.shared_expert(matrix)
                    self._copied[f"{prefix}.{inner}"] = _copied(choice, weights, f"{prefix}.mlp.{matrix}.weight")
            self._gates[f"{prefix}.{shape.gate()}"] = (layer, 0, count)
            if shape.gates_shared and shared:
                self._gates[f"{prefix}.{shape.shared_gate()}"] = (layer, count, count + shared)
            lacking = shape.zeros(base.config, prefix)
            self._zeros |= {tensor: size for tensor, size in lacking.items() if tensor not in self._copied}
        self._width = width
        self._dtype = base.info(f"model.layers.0.mlp.{MATRICES[0]}.weight").dtype

    @property
    def _choices(self) -> tuple[ExpertChoice, ...]:
        return (*self.recipe.experts, *self.recipe.shared_experts)

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.base.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return (*self._copied, *self._gates, *self._zeros)

    def aliases(self) -> Mapping[str, str]:
        return self.base.aliases()

    def info(self, name: str) -> TensorInfo:
        if name in self._gates:
            _, first, last = self._gates[name]
            return TensorInfo((last - first, self._width), self._dtype)
        if name in self._zeros:
            return TensorInfo(self._zeros[name], self._dtype)
        found = self._copied[self.aliases().get(name, name)]
        return found.weights.info(found.name)

    def read(self, name: str) -> torch.Tensor:
        return self.read_rows(name, 0, self.info(name).matrix[0]).reshape(self.info(name).shape)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        import torch

        info = self.info(name)
        if name in self._gates:
            layer, first, _ = self._gates[name]
            return self.gates[layer, first + start : first + stop].to(torch_dtype(info.dtype))
        if name in self._zeros:
            return torch.zeros(stop - start, info.matrix[1], dtype=torch_dtype(info.dtype))
        found = self._copied[self.aliases().get(name, name)]
        rows = found.weights.read_rows(found.name, start, stop)
        if not found.noise and found.factor == 1:
            return rows
        changed = rows.to(torch.float32)
        if found.noise:
            drawn = noise(self.recipe.seed, name, changed.numel(), start * info.matrix[1])
            changed = changed + found.noise * drawn.view_as(changed)
        return (changed * found.factor).to(rows.dtype)

    @property
    def gates(self) -> torch.Tensor:
        """`(layers, experts, hidden)` float32, computed when it is first asked for."""
        with self._lock:
            if self._computed is None:
                self._computed = self._compute()
            return self._computed

    @cached_property
    def _print(self) -> str:
        parts: list[Any] = [self.recipe.model_dump(mode="json"), self.config]
        parts += [weights.fingerprint() for weights in (self.base, *self.experts)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def fingerprint(self) -> str:
        return self._print


def noise(seed: int, name: str, count: int, place: int = 0) -> torch.Tensor:
    """Normal numbers that belong to the entries of a tensor: those of a place are the same in any block.

    Args:
        seed: of the mixture.
        name: of the tensor in the mixture.
        count: how many.
        place: of the first, counted from the tensor's first entry.

    Returns:
        `(count,)` float32 of mean 0 and standard deviation 1.
    """
    import torch

    first, second = (uniform(count, seeding.derive(seed, which, name), place) for which in ("noise", "angle"))
    # Box and Muller 1958: of two uniform numbers one normal; 1 - u, for u may be 0.
    return torch.sqrt(-2 * torch.log1p(-first)) * torch.cos(2 * math.pi * second)


def _copied(choice: ExpertChoice, weights: Weights, name: str) -> _Copied:
    writes = name.endswith(f".{MATRICES[-1]}.weight")
    factor = choice.residual_scale if writes and choice.residual_scale is not None else 1.0
    return _Copied(weights, name, choice.noise_scale or 0.0, factor)
