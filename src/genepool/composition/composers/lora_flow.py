"""LoRA-Flow: a gate before each layer says for every token how much of each adapter the layer uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.composition import Composition, Saved
from genepool.composition.routing.adapter_composition import AdapterComposer, AdapterComposition
from genepool.composition.routing.router_options import RouterFitOptions
from genepool.composition.world import World
from genepool.tasks.models import check_kind, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import torch

    from genepool.composition.mixing.layer_factors import LayerFactors
    from genepool.composition.routing.adapter_mixture import TokenRouter


class LoraFlowOptions(RouterFitOptions):
    """Options of LoRA-Flow."""

    temperature: float = Field(default=1.0, gt=0, le=1e6, description="Divides the scores in the softmax.")


@register(
    "lora_flow",
    source="Wang et al., LoRA-Flow, arXiv:2402.11455: softmax and bias for each layer and token, before the norm; the "
    "biases start at 0 here, where the authors' -0.5 and 0.5 make the order of their two adapters a prior; steps and "
    "their size are ours",
    when="A few labelled examples of a task are there that needs several adapters, one here and another there.",
    needs="answers",
    gradients=True,
    out="module",
    cost="a backward pass of the network for each step; when asked, one matrix more for each layer",
)
class LoraFlow(AdapterComposer[LoraFlowOptions]):
    """In layer l `sum_i w_i s_i B_i A_i x`, with `w = softmax(W_l h_l / T) + b_l` and h_l what comes into the layer.

    W and b start at 0: the mean of the adapters.
    """

    def fit(self, world: World) -> Composition:
        from genepool.composition.routing.fitted import fit_router, zeros
        from genepool.composition.steering.layers import decoder_layers

        check_kind(LanguageModel, open_model(world.skills.base), self.name)
        network, count = world.network, len(world.skills.skills)
        layers = len(decoder_layers(network.model, network.title))
        width = network.model.config.get_text_config().hidden_size
        start = {"gates": zeros(network, layers, count, width), "biases": zeros(network, layers, count)}
        return fit_router(self, world, start)

    def restore(self, saved: Saved) -> Composition:
        count = len(saved.skills.skills)
        biases = saved.tensor("biases", (None, count))
        gates = saved.tensor("gates", (len(biases), count, None))
        return AdapterComposition(self, saved.skills, saved.record, {"gates": gates, "biases": biases})

    def router(
        self, tensors: Mapping[str, torch.Tensor], layers: Mapping[str, LayerFactors], network: Network
    ) -> TokenRouter:
        from genepool.composition.routing.layer_gates import LayerGates, layer_numbers

        numbers = layer_numbers(layers, network)
        return LayerGates(tensors["gates"], tensors["biases"], self.options.temperature, numbers)
