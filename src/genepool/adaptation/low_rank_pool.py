"""Pairs of low-rank factors beside the linear layers of a frozen network, of which every example takes one.

Shared by adapters that add something small: one pair an example that is taught by itself, or a pool to choose from.
Uses composition's list of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from genepool.adaptation.stream_model import Inputs, StreamModel
from genepool.composition.context.modulators import modulated_layers
from genepool.seeding import torch_generator


class LowRankPool:
    """`h = W x + s B_m A_m x` in every linear layer but the one that gives the classes, m the pair of the example.

    A starts as PEFT starts it and B at zero, so nothing is changed to begin with. The network's own tensors stay.

    Args:
        model: beside whose layers it stands, until it is removed.
        count: pairs.
        rank: of each.
        scale: s.
        seed: of the draws.

    Attributes:
        tensors: the factors by name: "down NAME", shape (pairs, rank, inputs), and "up NAME", (pairs, rank, outputs).
    """

    def __init__(self, model: StreamModel, count: int, rank: int, scale: float, seed: int) -> None:
        self._model, self._scale = model, scale
        self.tensors: dict[str, nn.Parameter] = {}
        self._choice: torch.Tensor | None = None
        self._handles: list[Any] = []
        for name, layer in modulated_layers(model.asked).items():
            if layer.module is model.last_layer():
                continue
            generator = torch_generator(seed, "low-rank pool", name)
            drawn = 2 * torch.rand(count, rank, layer.inputs, generator=generator) - 1
            self.tensors[f"down {name}"] = nn.Parameter((drawn * layer.inputs**-0.5).to(model.device))
            self.tensors[f"up {name}"] = nn.Parameter(torch.zeros(count, rank, layer.outputs, device=model.device))
            self._handles.append(layer.module.register_forward_hook(self._hook(name)))

    def logits(self, inputs: Inputs, choice: torch.Tensor) -> torch.Tensor:
        """The logits of every example with its own pair, shape (n, classes), float32; with gradients where they are on.

        Args:
            inputs: the examples.
            choice: the number of the pair of each, shape (n,), int64.
        """
        found: list[torch.Tensor] = []
        order: list[int] = []
        for rows, part in inputs.parts:
            with self._taking(choice[list(rows)]):
                found.append(self._model.logits(Inputs(((tuple(range(len(rows))), part),), len(rows))))
            order += rows
        return torch.cat(found)[torch.tensor(order).argsort()]

    def remove(self) -> None:
        """Takes it off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def _taking(self, choice: torch.Tensor) -> Iterator[None]:
        """Inside, the rows of a pass take these pairs."""
        self._choice = choice.to(self._model.device)
        try:
            yield
        finally:
            self._choice = None

    def _hook(self, name: str) -> Callable[[Any, tuple[Any, ...], torch.Tensor], torch.Tensor | None]:
        def add(_: Any, given: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self._choice is None:
                return None
            x: torch.Tensor = given[0]
            # Some networks read an example in several rows, one after the other.
            lines = self._choice.repeat_interleave(x.shape[0] // len(self._choice))
            down, up = self.tensors[f"down {name}"][lines], self.tensors[f"up {name}"][lines]
            wide = x.reshape(len(lines), -1, x.shape[-1]).to(down.dtype)
            added = self._scale * wide @ down.transpose(1, 2) @ up
            return output + added.view_as(output).to(output.dtype)

        return add
