"""ICM-LoRA: an adapter is generated from a task's vector, its latent drawn from a normal distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.generated_adapter import GeneratesAdapter, GeneratingOptions
from genepool.seeding import torch_generator

if TYPE_CHECKING:
    import torch

    from genepool.composition.generation import AdapterAutoencoder


class IcmLoraOptions(GeneratingOptions):
    """Options of ICM-LoRA."""

    noise: float = Field(
        default=1.0, ge=0, le=10, description="Deviation of the latent that is drawn; 0 takes the likeliest one."
    )


@register(
    "icm_lora",
    source="Shao et al., In-Context Meta LoRA Generation, arXiv:2501.17635: convolutional CVAE, KL 0.005, latent 256; "
    "its script trains one task a run, so that nothing is conditional: here adapters of several tasks are learned from",
    when="Many adapters of many tasks are there, and examples of a task that has none.",
    needs="inputs",
    out="adapter",
    cost="one pass of the base over the inputs, and a small network that is trained on flat adapters",
)
class IcmLora(GeneratesAdapter[IcmLoraOptions]):
    """The decoder of a CVAE of flat adapters, at a latent of N(0, noise^2) and the vector of the target task."""

    def latent(
        self, model: AdapterAutoencoder, adapters: torch.Tensor, tasks: torch.Tensor, wanted: torch.Tensor, seed: int
    ) -> torch.Tensor:
        import torch

        generator = torch_generator(seed, "icm_lora")
        return torch.randn((1, self.options.latent), generator=generator) * self.options.noise
