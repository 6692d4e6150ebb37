"""A pool of modulators: LoRA pairs beside every linear layer, each with a key, of which one answers a prompt.

A prompt takes the modulator whose key lies nearest to its state. Tasks are learned one after the other; modulators that
earlier tasks used are taken less willingly, so each task finds room of its own (L2M, Schmied et al. 2023). It uses
`mixing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from genepool.composition.linear_layers import LinearLayer, linear_layers
from genepool.composition.mixing.attached import lines_of
from genepool.composition.mixing.layer_factors import LayerFactors
from genepool.composition.mixing.mixtures import SkillMixture
from genepool.seeding import torch_generator
from genepool.tasks.network import Network
from genepool.training.retrieval import check_width


def modulated_layers(network: Network) -> dict[str, LinearLayer]:
    """The layers that are modulated, by the name of their matrix: all linear ones but the head that writes tokens."""
    found = linear_layers(network.model)
    ask = getattr(network.model, "get_output_embeddings", None)
    head = ask() if ask is not None else None
    return {name: layer for name, layer in found.items() if layer.module is not head}


def new_pool(network: Network, width: int, modulators: int, rank: int, seed: int) -> dict[str, torch.nn.Parameter]:
    """A pool that changes nothing yet, by name: keys from U(-1, 1), A as PEFT starts it, B of zeros.

    Args:
        network: the base.
        width: of a state.
        modulators: how many.
        rank: of each.
        seed: of every draw.
    """
    drawn = {"keys": 2 * torch.rand(modulators, width, generator=torch_generator(seed, "modulator keys")) - 1}
    for name, layer in modulated_layers(network).items():
        generator = torch_generator(seed, "modulators", name)
        start = 2 * torch.rand(modulators, rank, layer.inputs, generator=generator) - 1
        drawn[f"down/{name}"] = start * layer.inputs**-0.5
        drawn[f"up/{name}"] = torch.zeros(modulators, rank, layer.outputs)
    return {name: torch.nn.Parameter(tensor.to(network.device)) for name, tensor in drawn.items()}


class AttachedPool:
    """A pool beside a network. Nothing is added while there is no mixture.

    Args:
        network: the base, loaded; its tensors stay as they are.
        tensors: of the pool, as `new_pool` names them: the very tensors, so that what moves them moves it. Layers that
            have none compute what they did.
        scale: what every product is multiplied by.
    """

    def __init__(self, network: Network, tensors: Mapping[str, torch.Tensor], scale: float) -> None:
        self.keys, self._tensors, self._scale = tensors["keys"], tensors, scale
        self.skills, self.mixture = len(self.keys), None
        self._handles: list[Any] = []
        self._layers: dict[str, LayerFactors] = {}
        layers = modulated_layers(network)
        for name, layer in ((name, layer) for name, layer in layers.items() if f"up/{name}" in tensors):
            self._handles.append(layer.module.register_forward_hook(self._hook(name, layer), with_kwargs=True))

    mixture: SkillMixture | None

    def similarities(self, states: torch.Tensor) -> torch.Tensor:
        """(cosine + 1) / 2 of each state with each key, shape (rows, modulators)."""
        check_width(states, self.keys.shape[1], "the pool")
        cosines = torch.nn.functional.normalize(states, dim=-1) @ torch.nn.functional.normalize(self.keys, dim=-1).T
        return (cosines + 1) / 2

    def one_hot(self, states: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
        """The modulator of each state as weights, shape (rows, modulators).

        Args:
            states: shape (rows, width).
            counts: how often earlier tasks took each modulator: similarities are divided by it where it is above 1.
        """
        near = self.similarities(states).detach()
        near = near if counts is None else near / counts.clamp_min(1)
        return torch.nn.functional.one_hot(near.argmax(-1), self.skills).to(states.dtype)

    @contextmanager
    def mixing(self, mixture: SkillMixture | None) -> Iterator[None]:
        """Inside, passes get this mixture. Pairs are taken anew, since a step may have moved them."""
        before, self.mixture = self.mixture, mixture
        self._layers.clear()
        try:
            yield
        finally:
            self.mixture = before
            self._layers.clear()

    def remove(self) -> None:
        """Takes the pool off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, layer: LinearLayer) -> Callable[..., torch.Tensor | None]:
        def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor | None:
            if self.mixture is None:
                return None
            x = args[0] if args else next(iter(kwargs.values()))
            lines = lines_of(name, x, self.mixture.lines)
            factors = self._factors(name, layer)
            wide = x.reshape(lines, -1, x.shape[-1]).to(factors.down.dtype)
            added = self.mixture.added(name, factors, wide, output.reshape(lines, -1, output.shape[-1]))
            return added.view_as(output)

        return add

    def _factors(self, name: str, layer: LinearLayer) -> LayerFactors:
        if name not in self._layers:
            down, up = self._tensors[f"down/{name}"], self._tensors[f"up/{name}"] * self._scale
            pairs = list(zip(down, up, strict=True))
            like = layer.module.weight
            assert isinstance(like, torch.Tensor)
            self._layers[name] = LayerFactors(
                pairs, [None] * len(pairs), inputs=down.shape[2], outputs=up.shape[2], like=like.detach()
            )
        return self._layers[name]
