"""A made-up inspection: a base and fine-tunes of it, with names as awkward as one wants them."""

from __future__ import annotations

import torch

from genepool.merging import Inspection, inspect_models
from genepool.weights import TensorWeights


def made_up_inspection(count: int = 3, *, layers: int = 4, hostile: bool = False) -> Inspection:
    """`count` fine-tunes of a base; hostile ones have markup for names, and lack a tensor."""
    generator = torch.Generator().manual_seed(1)
    names = [
        "model.embed_tokens.weight",
        *(f"model.layers.{i}.{part}.weight" for i in range(layers) for part in ("self_attn.q_proj", "mlp.up_proj")),
    ]
    base = {name: torch.randn(8, 8, generator=generator) for name in names}
    models = [TensorWeights(base, "models/<b>base</b>" if hostile else "models/base")]
    for i in range(count):
        tuned = {n: v + 0.1 * torch.randn(8, 8, generator=generator) for n, v in base.items()}
        if hostile:
            del tuned[names[-1]]
        models.append(TensorWeights(tuned, f'models/"tuned" <script>{i}' if hostile else f"models/tuned-{i}"))
    return inspect_models(models)
