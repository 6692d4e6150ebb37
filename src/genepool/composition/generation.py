"""A conditional variational autoencoder of adapters: it learns what those of known tasks look like, and draws others.

Adapters are flat vectors, the condition is a vector of the task. The encoder halves the length with every convolution;
the decoder doubles it again. Latents can be drawn by a diffusion too. Used by `generated_adapter` and its composers.
Uses training and `kept_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from genepool import progress
from genepool.composition.kept_fit import HeldOutLooks, KeptFit
from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.training import Diverged, Optimisation, Optimiser, fit
from genepool.training.fit import Step, drawing

# Channels of the first convolution; later ones have twice as many, up to the second number.
_CHANNELS, _MOST = 8, 64
# Hidden entries of a denoiser, at least.
_WIDTH = 256


class AdapterAutoencoder(nn.Module):
    """Flat adapters `(adapters, length)` to a latent and back, given a vector of each one's task.

    Args:
        length: entries of an adapter; they are padded with zeros to a multiple of 2^halvings.
        condition: entries of a task's vector.
        latent: entries of the latent.
        halvings: convolutions of stride 2 of the encoder, and as many of the decoder.
    """

    def __init__(self, length: int, condition: int, latent: int, halvings: int) -> None:
        super().__init__()
        self.length, self._padded = length, -(-length // 2**halvings) * 2**halvings
        sizes = [1, *(min(_CHANNELS * 2**number, _MOST) for number in range(halvings))]
        self.down = nn.ModuleList(nn.Conv1d(one, two, 4, 2, 1) for one, two in pairwise(sizes))
        self.up = nn.ModuleList(nn.ConvTranspose1d(two, one, 4, 2, 1) for one, two in pairwise(sizes))
        self._inner = (sizes[-1], self._padded // 2**halvings)
        flat = self._inner[0] * self._inner[1]
        self.to_latent = nn.Linear(flat + condition, 2 * latent)
        self.from_latent = nn.Linear(latent + condition, flat)

    def encode(self, adapters: torch.Tensor, tasks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latent, `(adapters, latent)` each."""
        x = nn.functional.pad(adapters, (0, self._padded - self.length))[:, None]
        for layer in self.down:
            x = nn.functional.leaky_relu(layer(x))
        mean, log = self.to_latent(torch.cat([x.flatten(1), tasks], 1)).chunk(2, 1)
        return mean, log.clamp(-20, 20)

    def decode(self, latent: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """Adapters, `(adapters, length)`."""
        x = self.from_latent(torch.cat([latent, tasks], 1)).view(-1, *self._inner)
        for number, layer in enumerate(reversed(self.up)):
            x = layer(x if number == 0 else nn.functional.leaky_relu(x))
        found: torch.Tensor = x[:, 0, : self.length]
        return found


@dataclass(frozen=True)
class AutoencoderFit:
    """How it is trained.

    Attributes:
        steps: over all adapters at once.
        learning_rate: of Adam at the first step; it falls to 0 along a line.
        divergence: weight of the KL divergence from N(0, 1), beside the mean squared error of an entry.
        latent, halvings: see `AdapterAutoencoder`.
        seed: of the first weights and of what is drawn.
    """

    steps: int
    learning_rate: float
    divergence: float
    latent: int
    halvings: int
    seed: int


def train_autoencoder(
    adapters: torch.Tensor, tasks: torch.Tensor, how: AutoencoderFit, kept: KeptFit
) -> tuple[AdapterAutoencoder, dict[str, Any]]:
    """Trains one, or goes on with a training that was stopped.

    Args:
        adapters: normalised, (adapters, length).
        tasks: the vector of each one's task, (adapters, width).
        how: the settings.
        kept: where the state is kept, every tenth of the steps.

    Returns:
        It in evaluation mode, and how it was trained as plain data.

    Raises:
        InputError: the first loss is no finite number.
    """
    with drawing(how.seed, 0, "autoencoder weights"):
        model = AdapterAutoencoder(adapters.shape[1], tasks.shape[1], how.latent, how.halvings)
    optimiser = Optimiser(dict(model.named_parameters()), Optimisation(how.steps, how.learning_rate))
    looks = HeldOutLooks(kept, optimiser, 0)
    every = max(1, how.steps // 10)
    start, stopped = looks.resume(), ""
    with progress.bar("training the generator", how.steps, "steps") as bar:
        bar.advance(start)

        def gradients(step: int) -> float:
            with torch.enable_grad():
                mean, log = model.encode(adapters, tasks)
                noise = torch.randn(mean.shape, generator=torch_generator(how.seed, "latent", step))
                again = model.decode(mean + noise * (log / 2).exp(), tasks)
                error = (again - adapters).square().mean()
                kl = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean()
                # The divergence of all entries of the latent, for one entry of an adapter.
                loss = error + how.divergence * kl / how.latent
                loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        def after(step: Step) -> bool:
            looks.losses.append(step.loss)
            bar.advance()
            if step.number % every == 0 or step.number == how.steps:
                looks.add(step.number, None)
            return False

        try:
            if not looks.begun:
                looks.add(0, None)
            taken = fit(optimiser, gradients, after, start=start)
        except Diverged as error:
            taken, stopped = error.step - 1, str(error)
            if taken < 1:
                raise InputError(
                    f"{error} before anything was learned", where="--set learning_rate", fix="Give a smaller one"
                ) from None
    best = looks.best()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(best[name])
    return model.eval(), {"steps": taken, "stopped": stopped, "loss": looks.losses[-1] if looks.losses else None}


class Denoiser(nn.Module):
    """Tells the noise in a latent, given the time and a vector of the task.

    Args:
        latent: entries of a latent.
        condition: entries of a task's vector.
        times: steps from a latent to noise.
    """

    scale: torch.Tensor
    center: torch.Tensor

    def __init__(self, latent: int, condition: int, times: int) -> None:
        super().__init__()
        width = max(_WIDTH, 2 * latent)
        self.latent, self.time = latent, nn.Embedding(times, width)
        self.first, self.inner = nn.Linear(latent + condition, width), nn.Linear(width, width)
        self.out = nn.Linear(width, latent)
        self.register_buffer("scale", torch.ones(latent))
        self.register_buffer("center", torch.zeros(latent))

    def forward(self, noisy: torch.Tensor, time: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.first(torch.cat([noisy, tasks], 1)) + self.time(time))
        found: torch.Tensor = self.out(nn.functional.silu(self.inner(x)))
        return found


def kept_share(times: int) -> torch.Tensor:
    """The share of a latent's variance that is left after each time, (times,): a cosine (Nichol and Dhariwal 2021)."""
    at = torch.arange(times + 1, dtype=torch.float64) / times
    curve = ((at + 0.008) / 1.008 * torch.pi / 2).cos().square()
    ratios = (curve[1:] / curve[:-1]).clamp(min=1 - 0.999)
    return ratios.cumprod(0).float()


def train_denoiser(
    latents: torch.Tensor, tasks: torch.Tensor, times: int, steps: int, rate: float, seed: int
) -> Denoiser:
    """Trains a denoiser (Ho et al. 2020: the mean squared error of the noise).

    Args:
        latents: of the adapters, (adapters, latent).
        tasks: the vector of each one's task, (adapters, width).
        times: steps from a latent to noise.
        steps: over all adapters, each at a time of its own.
        rate: of Adam at the first step; it falls to 0 along a line.
        seed: of the first weights and every draw.
    """
    with drawing(seed, 0, "denoiser weights"):
        model = Denoiser(latents.shape[1], tasks.shape[1], times)
    model.center.copy_(latents.mean(0))
    model.scale.copy_(latents.std(0, correction=0).clamp(min=1e-6))
    clean, share = (latents - model.center) / model.scale, kept_share(times)

    def gradients(step: int) -> float:
        generator = torch_generator(seed, "diffusion", step)
        time = torch.randint(times, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        kept = share[time, None]
        with torch.enable_grad():
            told = model(kept.sqrt() * clean + (1 - kept).sqrt() * noise, time, tasks)
            loss: torch.Tensor = (told - noise).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimiser = Optimiser(dict(model.named_parameters()), Optimisation(steps, rate))
    with progress.bar("training the denoiser", steps, "steps") as bar:

        def after(_step: Step) -> bool:
            bar.advance()
            return False

        fit(optimiser, gradients, after)
    with torch.no_grad():
        for name, value in optimiser.trained().items():
            model.get_parameter(name).copy_(value)
    return model.eval()


def denoised(model: Denoiser, wanted: torch.Tensor, times: int, seed: int) -> torch.Tensor:
    """A latent that is made of noise, (1, latent): ancestral sampling.

    Args:
        model: trained.
        wanted: vector of the task, (width,).
        times: steps from a latent to noise.
        seed: of every draw.
    """
    share = kept_share(times)
    generator = torch_generator(seed, "denoised")
    x = torch.randn((1, model.latent), generator=generator)
    with torch.no_grad():
        for time in reversed(range(times)):
            kept, before = share[time], share[time - 1] if time else torch.ones(())
            told = model(x, torch.tensor([time]), wanted[None])
            clean = ((x - (1 - kept).sqrt() * told) / kept.sqrt()).clamp(-4, 4)
            step = kept / before
            x = (before.sqrt() * (1 - step) * clean + step.sqrt() * (1 - before) * x) / (1 - kept)
            if time:
                spread = ((1 - before) / (1 - kept) * (1 - step)).sqrt()
                x = x + spread * torch.randn(x.shape, generator=generator)
    return x * model.scale + model.center
