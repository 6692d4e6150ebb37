"""Which modules of a network a training of factors touches: the linear layers that get them, and what is trained whole.

Asked of the network in memory by `trained`, and of its outline without weights by plans, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from genepool.errors import InputError, nearest


@dataclass(frozen=True)
class TrainedModules:
    """The modules that are trained.

    Attributes:
        targets: the words by which PEFT finds the linear layers that get factors: the last words of their names.
        layers: these layers, by their whole names.
        excluded: layers of such a name that get none, because all of their module is trained.
        whole: modules that are trained whole: heads, and what was made fresh before one.
    """

    targets: tuple[str, ...]
    layers: Mapping[str, Any]
    excluded: tuple[str, ...]
    whole: tuple[str, ...]

    def entries(self, network: Any, rank: int) -> int:
        """How many entries are trained."""
        factors = sum(rank * (one.weight.shape[0] + one.weight.shape[1]) for one in self.layers.values())
        whole = sum(p.numel() for name in self.whole for p in network.get_submodule(name).parameters())
        return int(factors + whole)


def trained_modules(
    network: Any, heads: Collection[str], fresh: Collection[str], targets: Collection[str], where: str
) -> TrainedModules:
    """The modules that are trained.

    Args:
        network: of torch, with or without its weights.
        heads: modules that turn hidden states into classes.
        fresh: modules that the base lacked.
        targets: what `lora.targets` says; every linear layer when empty.
        where: the base, for errors.

    Raises:
        InputError: a target names no layer, or one that is not linear.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    whole = [*heads, *(name for name in fresh if not any(_inside(name, head) for head in heads))]
    output = getattr(network, "get_output_embeddings", lambda: None)()
    modules = {name: module for name, module in network.named_modules() if name}
    linear = {
        name: module
        for name, module in modules.items()
        if isinstance(module, torch.nn.Linear | Conv1D) and (module is not output or _named(name, targets))
    }
    free = [name for name in linear if not any(_inside(name, one) for one in whole)]
    for target in targets:
        if any(_named(name, [target]) for name in free):
            continue
        if any(_named(name, [target]) for name in modules):
            raise InputError(
                f"{target} is not a linear layer", where=where, fix="Name linear layers, or leave `targets` out"
            )
        known = sorted({name.rpartition(".")[2] for name in free})
        raise InputError(f"the model has no layer {target}", where=where, fix=nearest(target, known))
    chosen = tuple(targets) or tuple(sorted({name.rpartition(".")[2] for name in free}))
    if not chosen:
        raise InputError("the model has no linear layers", where=where, fix="Train every tensor: --full")
    layers = {name: linear[name] for name in free if _named(name, chosen)}
    excluded = tuple(name for name in linear if name not in layers and _named(name, chosen))
    return TrainedModules(chosen, layers, excluded, tuple(whole))


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _named(name: str, targets: Collection[str]) -> bool:
    """PEFT's rule: the whole name, or the end of it at a dot."""
    return any(name == target or name.endswith(f".{target}") for target in targets)
