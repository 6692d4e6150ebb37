"""A step of fusion_bench's layer-wise AdaMerging on the weights and the tokens of `memory`: its process, its Python.

Its own merged model is used as its own loop does (`layer_wise_adamerging.py`): forward, backward, Adam at 1e-3, then
`merge_weights()`. Nothing of genepool is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.composition.memory import batch, timed


def main(count: str, folder: str, told: str) -> None:
    """One row: so many fine-tunes of `folder`; what a step took goes to `told`."""
    import torch
    from fusion_bench.models.wrappers.layer_wise_fusion import (  # type: ignore[import-not-found]
        LayerWiseMergedModel,
        get_layer_wise_weights,
    )
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)

    def load(name: str) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(Path(folder) / name, dtype=torch.float32).eval()

    base, tuned = load("base"), [load(f"full/{number}") for number in range(int(count))]
    layers = sum(1 for parameter in base.parameters() if parameter.requires_grad)
    # With a tied head, fusion_bench 0.2.33 stops: "got multiple values for keys [...], which are tied".
    # `strict=False` as its methods for GPT-2 and T5 set it: buffers are in no state dict.
    merged = LayerWiseMergedModel(get_layer_wise_weights(len(tuned), layers, 0.3), base, tuned, strict=False)
    optimiser = torch.optim.Adam([merged.merge_weight], lr=1e-3)
    ids = batch()
    merged.merge_weights()

    def step(_: int) -> None:
        logits = merged(input_ids=ids).logits[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        merged.merge_weights()

    timed(step, Path(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
