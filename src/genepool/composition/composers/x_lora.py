"""X-LoRA: one hidden state of each token decides how much of each adapter all layers use for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.composition import Composition, Saved
from genepool.composition.routing.adapter_composition import AdapterComposer, AdapterComposition
from genepool.composition.routing.router_options import RouterFitOptions
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import Model, check_kind, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.network import Network

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from genepool.composition.mixing.layer_factors import LayerFactors
    from genepool.composition.peft_export import PeftExport
    from genepool.composition.routing.token_scores import TokenScores


#: The state of PEFT's `internal_xlora_classifier`, which PEFT itself neither saves nor loads.
CLASSIFIER_FILE = "xlora_classifier.safetensors"


class XLoraOptions(RouterFitOptions):
    """Options of X-LoRA."""

    layerwise: bool = Field(
        default=False, description="Give each layer scores of its own (PEFT's default: the same for all)."
    )
    temperature: float = Field(default=1.0, gt=0, le=1e6, description="Divides the scores in the softmax (PEFT's).")
    reads: int | None = Field(
        default=None,
        ge=0,
        le=10**4,
        description="Read what comes into this layer, from 0, whose predecessors stay the base's: one pass. null: read "
        "the last hidden state of a pass of the base (the authors'): two passes.",
    )


@register(
    "x_lora",
    source="Buehler & Buehler, X-LoRA, arXiv:2402.07148: two passes, softmax per token; defaults of PEFT's XLoraConfig "
    "but for the start at 0; both passes keep a cache here, and scores of an early layer are ours",
    when="A few labelled examples are there, and what a token needs can be told from what the base makes of it.",
    needs="answers",
    gradients=True,
    out="module",
    cost="a backward pass of the network for each step; when asked, a second pass of the base, or none with `reads`",
)
class XLora(AdapterComposer[XLoraOptions]):
    """`sum_i w_i s_i B_i A_i x` in every layer, with `w = softmax((W h + b) / T)` and h one hidden state of the token.

    h is the last hidden state of the base alone. It has a cache of its own, so decoding reads each token once in each
    pass. W and b start at 0: the mean of the adapters.
    """

    def fit(self, world: World) -> Composition:
        from genepool.composition.routing.fitted import fit_router, zeros

        check_kind(LanguageModel, open_model(world.skills.base), self.name)
        network, count = world.network, len(world.skills.skills)
        width = network.model.config.get_text_config().hidden_size
        outputs = count * (len(world.skills.vectors().names) if self.options.layerwise else 1)
        return fit_router(
            self,
            world,
            {"weight": zeros(network, outputs, width), "bias": zeros(network, outputs)},
            kind=XLoraComposition,
        )

    def restore(self, saved: Saved) -> Composition:
        count, places = len(saved.skills.skills), len(saved.skills.vectors().names)
        outputs = count * (places if self.options.layerwise else 1)
        tensors = {"weight": saved.tensor("weight", (outputs, None)), "bias": saved.tensor("bias", (outputs,))}
        return XLoraComposition(self, saved.skills, saved.record, tensors)

    def router(
        self, tensors: Mapping[str, torch.Tensor], layers: Mapping[str, LayerFactors], network: Network
    ) -> TokenScores:
        from genepool.composition.routing.token_scores import EarlyScores, TokenScores

        options = self.options
        given = (tensors["weight"], tensors["bias"], options.temperature, list(layers))
        if options.reads is not None:
            return EarlyScores(*given, layerwise=options.layerwise, reads=options.reads)
        return TokenScores(*given, layerwise=options.layerwise)


class XLoraComposition(AdapterComposition):
    """Skills beside the base, and the linear layer that scores them."""

    composer: XLora

    @property
    def kind(self) -> type[Model]:
        if self.composer.options.reads is not None:
            return super().kind
        from genepool.composition.routing.two_pass import TwoPassLanguageModel

        return TwoPassLanguageModel

    def apply(self, network: Network) -> Model:
        if self.composer.options.reads is not None:
            return super().apply(network)
        from genepool.composition.routing.adapter_mixture import AdapterMixture
        from genepool.composition.routing.two_pass import TwoPassLanguageModel

        assert isinstance(network, LanguageModel)
        mixture = AdapterMixture(self.skills, network)
        scores = self.composer.router(self._tensors, mixture.layers, network)
        mixture.route(scores)
        return TwoPassLanguageModel(network, mixture, scores, self.skills.names, self.name, self.fingerprint)

    def write_peft(self, folder: Path) -> PeftExport:
        """PEFT's X-LoRA: its config, adapters that are called by their numbers, and the scores' layer.

        Raises:
            InputError: the scores are of an early layer, which PEFT has not.
        """
        from peft import XLoraConfig

        from genepool.composition.linear_layers import outlined_layers
        from genepool.composition.peft_export import PeftExport, write_config, write_experts, write_tensors

        options, skills = self.composer.options, self.skills
        if options.reads is not None:
            raise InputError(
                f"PEFT's X-LoRA reads the last hidden state of the base, and these scores read layer {options.reads}",
                where=self.name,
                fix="Compose without --set reads, or use the folder as it is",
            )
        names = [str(number) for number in range(len(skills.skills))]
        write_experts(skills, folder, names)
        weight, bias = self._tensors["weight"], self._tensors["bias"]
        if options.layerwise:
            # PEFT numbers the layers as the network has them.
            own = {name: place for place, name in enumerate(skills.vectors().names)}
            order = [own[name] for name in outlined_layers(skills.base) if name in own]
            weight = weight.view(len(own), -1, weight.shape[1])[order].flatten(0, 1)
            bias = bias.view(len(own), -1)[order].flatten()
        config = XLoraConfig(
            hidden_size=weight.shape[1],
            adapters={name: name for name in names},
            softmax_temperature=options.temperature,
            layerwise_scalings=options.layerwise,
        )
        write_config(config, skills, folder)
        write_tensors({"layers.0.weight": weight, "layers.0.bias": bias}, folder / CLASSIFIER_FILE)
        return PeftExport(folder, f"X-LoRA's adapters by number, and its classifier in {CLASSIFIER_FILE}", len(names))
