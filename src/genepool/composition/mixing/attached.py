"""Skills beside a network: what its layers give is added to by what the skills change, line by line.

A skill runs beside the base where all that it changes are matrices of linear layers, each by a product of two factors,
and biases of such layers. With `all_rows`, also norms, and embeddings by products. `why_not_mixed` says which skills do
not. Used by composers with routers and by `shared_network`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from genepool.composition.mixing.layer_factors import LayerFactors
from genepool.composition.mixing.mixtures import SkillMixture
from genepool.composition.mixing.row_wise import EmbeddingChange, NormChange, is_norm
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError

# Modules of a mixture of experts are given some tokens of a batch, so no line can be told from what comes in.
_EXPERTS = "experts"


@dataclass(frozen=True)
class TensorUse:
    """A module that computes with a tensor.

    Attributes:
        path: of the module.
        module: the module.
        kind: what it is.
        leaf: which of its tensors it is.
    """

    path: str
    module: nn.Module
    kind: Literal["linear", "norm", "embedding"]
    leaf: Literal["weight", "bias"]


def why_not_mixed(vectors: TaskVectors, network: nn.Module, *, all_rows: bool = False) -> dict[int, str]:
    """The skills that cannot run beside the base, each with the reason; headers and factors alone are read.

    Args:
        vectors: the skills, in the layout of memory.
        network: the base's network, perhaps only its outline.
        all_rows: norms and embeddings count too.
    """
    uses, found = _uses(vectors.names, network), dict[int, str]()
    for name in vectors.names:
        reason, factors = _reason(name, uses[name], all_rows=all_rows)
        for skill in vectors.holders(name):
            if skill in found:
                continue
            if reason:
                found[skill] = reason
            elif factors and vectors.factors(skill, name) is None:
                found[skill] = f"changes {name} by no product of two factors"
    return found


class AttachedSkills:
    """Skills beside a network. Nothing is added while there is no mixture.

    Args:
        network: the base, loaded; its tensors stay as they are.
        vectors: the skills, in the layout of memory.
        only: numbers of the skills that are attached; all when None. The others weigh nothing.
        all_rows: attach what changes norms and embeddings too. A router by layer is then asked there as well.

    Attributes:
        device: where the network computes.
        skills: how many there are.
        layers: the factors of every linear layer that a skill changes, by the name of its matrix.
        mixture: what the lines of a pass get; None: the base alone.

    Raises:
        InputError: a skill changes something that does not run beside the base.
    """

    def __init__(
        self,
        network: nn.Module,
        vectors: TaskVectors,
        only: Collection[int] | None = None,
        *,
        all_rows: bool = False,
    ) -> None:
        chosen = range(len(vectors.changes)) if only is None else only
        for skill, reason in why_not_mixed(vectors, network, all_rows=all_rows).items():
            if skill in chosen:
                raise InputError(
                    f"{reason}, so it cannot run beside its base",
                    where=vectors.changes[skill].name,
                    fix="Use an adapter of low rank (`genepool skill convert --to peft --rank N --factors-only`)",
                )
        self.mixture: SkillMixture | None = None
        self.device = next(network.parameters()).device
        self.skills = len(vectors.changes)
        self.layers: dict[str, LayerFactors] = {}
        self._handles: list[Any] = []
        read = _Read(vectors, chosen)
        modules: dict[str, tuple[TensorUse, dict[str, str]]] = {}
        for name, uses in _uses(vectors.names, network).items():
            if set(vectors.holders(name)) & set(chosen):
                for use in uses:
                    modules.setdefault(use.path, (use, {}))[1][use.leaf] = name
        for path, (use, leaves) in modules.items():
            self._handles.append(
                use.module.register_forward_hook(self._hook(path, use, leaves, read), with_kwargs=True)
            )

    @contextmanager
    def mixing(self, mixture: SkillMixture | None) -> Iterator[None]:
        """Inside, passes get this mixture."""
        before, self.mixture = self.mixture, mixture
        try:
            yield
        finally:
            self.mixture = before

    def remove(self) -> None:
        """Takes the skills off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def nbytes(self) -> int:
        """Bytes that the factors of linear layers take."""
        return sum(one.nbytes for layer in self.layers.values() for one in (layer.down, layer.up))

    def _hook(self, path: str, use: TensorUse, leaves: dict[str, str], read: _Read) -> Callable[..., Any]:
        name = f"{path}.weight" if path else "weight"
        if use.kind == "linear":
            layer = self.layers[name] = _layer_factors(use.module, read.pairs(leaves), read.rows(leaves, "bias"))
            return self._linear_hook(name, layer)
        change: NormChange | EmbeddingChange
        if use.kind == "norm":
            change = NormChange(use.module, read.rows(leaves, "weight"), read.rows(leaves, "bias"))
        else:
            assert isinstance(use.module, nn.Embedding)
            change = EmbeddingChange(read.pairs(leaves), use.module.weight.detach())

        def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor | None:
            mixture = self.mixture
            if mixture is None:
                return None
            x = args[0] if args else next(iter(kwargs.values()))
            if mixture.lines not in (None, len(x)) and len(x) != 1:
                raise _untold(name, len(x), mixture.lines)
            # A norm is asked again, with other weights.
            with self.mixing(None):
                return change.added(name, mixture, x, output)

        return add

    def _linear_hook(self, name: str, layer: LayerFactors) -> Callable[..., Any]:
        def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor | None:
            mixture = self.mixture
            if mixture is None:
                return None
            x = args[0] if args else next(iter(kwargs.values()))
            if x.dim() == 3 and mixture.lines in (None, len(x)):
                return mixture.added(name, layer, x.to(layer.down.dtype), output)
            lines = lines_of(name, x, mixture.lines)
            # Some networks flatten the tokens of all lines, and what is pooled has no tokens.
            wide = x.reshape(lines, -1, x.shape[-1]).to(layer.down.dtype)
            return mixture.added(name, layer, wide, output.reshape(lines, -1, output.shape[-1])).view_as(output)

        return add


class _Read:
    """Reads what some skills change of tensors; None for a skill that leaves one alone.

    Args:
        vectors: the skills.
        chosen: numbers of those that are read.
    """

    def __init__(self, vectors: TaskVectors, chosen: Collection[int]) -> None:
        self._vectors, self._chosen = vectors, chosen

    def pairs(self, leaves: dict[str, str]) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """A module's matrix as it is stored: (rows, rank) and (rank, columns), the scale in the second."""
        name = leaves.get("weight")
        found: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        for skill in range(len(self._vectors.changes)):
            product = self._vectors.factors(skill, name) if name is not None and self._has(skill, name) else None
            found.append(None if product is None else (product.left.float(), product.right.float() * product.factor))
        return found

    def rows(self, leaves: dict[str, str], leaf: str) -> list[torch.Tensor | None]:
        """A module's vector."""
        name, skills = leaves.get(leaf), range(len(self._vectors.changes))
        return [self._row(skill, name) if name is not None and self._has(skill, name) else None for skill in skills]

    def _has(self, skill: int, name: str) -> bool:
        return skill in self._chosen and skill in self._vectors.holders(name)

    def _row(self, skill: int, name: str) -> torch.Tensor:
        rows, _ = self._vectors.matrix(name)
        return self._vectors.block(name, 0, rows)[self._vectors.holders(name).index(skill)].flatten().clone()


def _uses(names: Sequence[str], network: nn.Module) -> dict[str, list[TensorUse]]:
    """The modules that compute with each tensor. Where one of them is of no kind that is known, there are none."""
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
    from transformers.pytorch_utils import Conv1D

    own = dict(network.named_parameters())
    wanted = {id(own[name]): name for name in names if name in own}
    found: dict[str, list[TensorUse]] = {name: [] for name in names}
    unknown: set[str] = set()
    for path, module in network.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = wanted.get(id(parameter))
            if name is None:
                continue
            kind: Literal["linear", "norm", "embedding"] | None = None
            # torch's own attention takes the matrix of such a layer and never calls the layer.
            if isinstance(module, nn.Linear | Conv1D) and not isinstance(module, NonDynamicallyQuantizableLinear):
                kind = "linear"
            elif type(module) is nn.Embedding and module.max_norm is None:
                kind = "embedding"
            elif is_norm(module):
                kind = "norm"
            if kind is None or leaf not in ("weight", "bias"):
                unknown.add(name)
            else:
                found[name].append(TensorUse(path, module, kind, "weight" if leaf == "weight" else "bias"))
    return {name: [] if name in unknown else uses for name, uses in found.items()}


def _reason(name: str, uses: Sequence[TensorUse], *, all_rows: bool) -> tuple[str, bool]:
    """Why a change of a tensor cannot run beside the base, empty where it can; and whether it must be a product."""
    kinds = {use.kind for use in uses}
    if not kinds or (kinds != {"linear"} and not all_rows):
        return f"changes {name}, which is no weight of a linear layer alone", False
    if _EXPERTS in name.split("."):
        return f"changes {name}, which is given some tokens of a batch alone", False
    return "", any(use.kind != "norm" and use.leaf == "weight" for use in uses)


def _layer_factors(
    module: nn.Module,
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
    shifts: Sequence[torch.Tensor | None],
) -> LayerFactors:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    rows, columns = weight.shape
    if isinstance(module, nn.Linear):
        turned = [None if pair is None else (pair[1], pair[0].T) for pair in pairs]
        return LayerFactors(turned, shifts, inputs=columns, outputs=rows, like=weight.detach())
    turned = [None if pair is None else (pair[0].T, pair[1]) for pair in pairs]
    return LayerFactors(turned, shifts, inputs=rows, outputs=columns, like=weight.detach())


def lines_of(name: str, x: torch.Tensor, lines: int | None) -> int:
    """How many lines an input of a layer has; some networks flatten the tokens of all lines.

    Args:
        name: of the layer's matrix, for errors.
        x: the input, (lines, ..., inputs) or (lines * tokens, inputs).
        lines: how many the pass has; None where each of the input's first places is one.

    Raises:
        InputError: they cannot be told.
    """
    first = len(x)
    if lines is None or first == lines:
        return first
    if x.dim() == 2 and lines and first % lines == 0:
        return lines
    raise _untold(name, first, lines)


def _untold(name: str, found: int, lines: int | None) -> InputError:
    return InputError(
        f"is given {found} lines in a batch of {lines}, so it cannot be told which skill each has",
        where=name,
        fix="Ask the skills one by one",
    )
