"""A steered language model that tasks can be asked, and the biases that steer alike.

Uses `layers`, `steered_network` and tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from genepool.composition.composed_model import LanguageModelAroundOne
from genepool.errors import InputError
from genepool.tasks.models.causal_lm import LanguageModel

if TYPE_CHECKING:
    import torch


class SteeredLanguageModel(LanguageModelAroundOne):
    """A base whose hidden states are moved while it answers.

    Args:
        base: the base in memory; it is not changed.
        vectors: what is added behind each layer, by its number, (width,).
        name: what the user calls it.
        fingerprint: of the composition.
        everywhere: add them to the prompt's tokens too.

    Raises:
        InputError: the base's layers cannot be told apart.
    """

    kind = "a steered language model"

    def __init__(
        self, base: LanguageModel, vectors: Mapping[int, torch.Tensor], name: str, fingerprint: str, *, everywhere: bool
    ) -> None:
        from genepool.composition.steering.layers import decoder_layers
        from genepool.composition.steering.steered_network import SteeredForCausalLM

        layers = decoder_layers(base.model, base.title)
        network = SteeredForCausalLM(base.model, layers, vectors, everywhere=everywhere).eval()
        super().__init__(base, network, name, fingerprint)


def steering_biases(base: LanguageModel, layers: list[int]) -> list[str]:
    """For each of some layers, the bias whose change is added, as it is, to what the layer gives at every place.

    It is found by asking: a bias is changed, and what the layer then gives is looked at.

    Args:
        base: the base in memory.
        layers: numbers of layers.

    Returns:
        Names of parameters.

    Raises:
        InputError: a layer has no such bias.
    """
    from genepool.composition.steering.layers import decoder_layers

    found = []
    modules = decoder_layers(base.model, base.title)
    names = {id(parameter): name for name, parameter in base.model.named_parameters()}
    for number in layers:
        biases = [one for one in modules[number].parameters() if one.dim() == 1 and _is_added(base, number, one)]
        if not biases:
            raise InputError(
                f"its layer {number} has no bias that is added to what the layer gives, so vectors do not fold",
                where=base.title,
                fix="Give --keep, which adds them while it runs",
            )
        # The last one: where attention and MLP both have one, the MLP's stands behind it.
        found.append(names[id(biases[-1])])
    return found


def _is_added(base: LanguageModel, number: int, bias: torch.nn.Parameter) -> bool:
    """Whether a layer gives exactly as much more as a bias of it does."""
    import torch

    from genepool.composition.steering.layers import decoder_layers, watched

    layers = decoder_layers(base.model, base.title)
    ids = torch.arange(4).remainder(base.vocabulary_size).unsqueeze(0).to(base.device)

    def given() -> torch.Tensor:
        with torch.inference_mode(), watched(layers, torch.tensor([3])) as seen:
            base.model(input_ids=ids, use_cache=False)
        return seen[number][0]

    before, kept = given(), bias.data.clone()
    if bias.shape != before.shape:
        return False
    added = torch.linspace(-1, 1, len(bias), dtype=bias.dtype, device=bias.device)
    bias.data.add_(added)
    try:
        return torch.allclose(given() - before, added.float().cpu(), atol=1e-4)
    finally:
        bias.data.copy_(kept)
