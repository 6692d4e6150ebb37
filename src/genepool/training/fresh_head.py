"""The first weights of a head that a base lacks, drawn from the seed. Uses torch; `trained` asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.seeding import derive

if TYPE_CHECKING:
    from genepool.tasks.network import Network
    from genepool.weights import BaseWithHead


def draw_head(model: Network, base: BaseWithHead, seed: int) -> None:
    """Gives a head that the base lacks its start, as transformers begins one, each module from its own (seed, name)."""
    import torch

    network = model.model
    for name in base.modules:
        for inner, module in network.get_submodule(name).named_modules(prefix=name):
            for parameter in module.parameters(recurse=False):
                # transformers leaves alone what it has loaded, and these zeros it has.
                parameter._is_hf_initialized = False
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(derive(seed, "head", inner))
                network._init_weights(module)
