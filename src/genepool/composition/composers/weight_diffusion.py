"""Diffusion of weights: an adapter is generated from a task's vector, its latent by a diffusion of latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import register
from genepool.composition.generated_adapter import GeneratesAdapter, GeneratingOptions

if TYPE_CHECKING:
    import torch

    from genepool.composition.generation import AdapterAutoencoder


class WeightDiffusionOptions(GeneratingOptions):
    """Options of the diffusion of weights."""

    times: int = Field(default=100, ge=2, le=10**4, description="Steps from a latent to noise, and back (ours).")
    diffusion_steps: int = Field(
        default=1000, ge=1, le=10**6, description="Steps in which the denoiser is trained, over all adapters (ours)."
    )


@register(
    "weight_diffusion",
    source="Soro et al., Diffusion-based Neural Network Weights Generation, arXiv:2402.18153, derived from the text: a "
    "VAE of weights, and a diffusion in its latent given the data; the task's vector stands for their set encoder",
    when="As icm_lora, where a normal distribution is too coarse a picture of the latents.",
    needs="inputs",
    out="adapter",
    cost="as icm_lora, and a denoiser of latents that is trained after it",
)
class WeightDiffusion(GeneratesAdapter[WeightDiffusionOptions]):
    """The decoder of a CVAE of flat adapters, at a latent that a denoiser made of noise, given the target's vector."""

    def latent(
        self, model: AdapterAutoencoder, adapters: torch.Tensor, tasks: torch.Tensor, wanted: torch.Tensor, seed: int
    ) -> torch.Tensor:
        from genepool.composition.generation import denoised, train_denoiser

        means, _ = model.encode(adapters, tasks)
        options = self.options
        denoiser = train_denoiser(means, tasks, options.times, options.diffusion_steps, options.learning_rate, seed)
        return denoised(denoiser, wanted, options.times, seed)
