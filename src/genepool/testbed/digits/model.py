"""An untrained model of the digits testbed, for `builder` to train; the network is a kind of model in `tasks`."""

from __future__ import annotations

import torch

from genepool.seeding import torch_generator
from genepool.tasks.models.digits.network import DigitsTransformer, Shape


def new_base(shape: Shape, seed: int) -> DigitsTransformer:
    """An untrained model; every tensor starts from its own (seed, name)."""
    model = DigitsTransformer(shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch_generator(seed, "digits init", name)
            if name == "position_embed":
                parameter.normal_(0.0, 0.5, generator=generator)
            elif name == "class_token":
                parameter.normal_(0.0, 0.02, generator=generator)
            elif parameter.dim() == 2:
                bound = parameter.shape[1] ** -0.5  # torch's own start of a linear layer
                parameter.uniform_(-bound, bound, generator=generator)
            elif "norm" not in name:
                parameter.zero_()
    return model
