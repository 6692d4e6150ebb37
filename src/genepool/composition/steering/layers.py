"""The layers of a causal language model: found in its network, and watched while it reads. Used by the other files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from genepool.errors import InputError

#: Gets a layer's number and its output, (rows, places, width), and gives what stands in its place.
Edit = Callable[[int, torch.Tensor], torch.Tensor]


def decoder_layers(network: Any, where: str) -> Sequence[torch.nn.Module]:
    """The layers in their order: the first list of as many modules as the config says there are layers.

    Args:
        network: transformers' network.
        where: the model, for errors.

    Raises:
        InputError: there is no such list.
    """
    count = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    for module in network.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    raise InputError("its layers cannot be told apart", where=where, fix="Use a model of transformers' own classes")


@contextmanager
def edited(layers: Sequence[torch.nn.Module], edit: Edit) -> Iterator[None]:
    """While the block lasts, what each layer gives passes through `edit`."""

    def hook(number: int) -> Callable[..., Any]:
        def changed(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (edit(number, output[0]), *output[1:])
            return edit(number, output)

        return changed

    handles = [layer.register_forward_hook(hook(number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(layers: Sequence[torch.nn.Module], places: torch.Tensor) -> Iterator[dict[int, torch.Tensor]]:
    """While the block lasts, what each layer gave last at one place of each row, by number: (rows, width), float32.

    Args:
        layers: the layers.
        places: one a row, (rows,).
    """
    seen: dict[int, torch.Tensor] = {}

    def look(number: int, output: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(output), device=output.device)
        seen[number] = output[rows, places.to(output.device)].detach().float().cpu()
        return output

    with edited(layers, look):
        yield seen
