"""Uni-LoRA: every entry of every factor is one of a few trained numbers (arXiv:2506.00799)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import BIAS, COMMON, START, TRAINING, TRANSPOSED, declared, read, unused

if TYPE_CHECKING:
    import torch

#: Entries of all factors together whose places are drawn anew, as the file does not hold them. At rank 4 a model of
#: seven billion parameters has ten million; one place takes 8 bytes.
MOST_DRAWN = 1 << 28


class UniLoRA(Kind):
    """`B A`, an entry of either the trained number of its place, by the root of how often that number stands."""

    peft_type = "UNILORA"
    title = "Uni-LoRA"
    source = "arXiv:2506.00799"
    prefix = "unilora_"
    parts = ("unilora_indices_A", "unilora_indices_B", "unilora_scales_A", "unilora_scales_B")
    shared = ("unilora_theta_d",)
    # The file of such an adapter may hold nothing for any one module.
    by_settings = True
    settings = declared(
        {
            **COMMON,
            "target_modules": read("which modules are adapted; the file does not tell it"),
            "layers_to_transform": read("in which layers"),
            "layers_pattern": read("what a list of layers is called"),
            **BIAS,
            **TRANSPOSED,
            "r": read("the rank"),
            "proj_seed": read("the seed of the places, where they are not in the file"),
            "theta_d_length": unused("the shapes in the file tell it"),
            "save_indices": unused("the places are in the file, or they are not"),
            "unilora_dropout": TRAINING,
            "init_theta_d_bound": START,
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        found = layer.shared_size("unilora_theta_d")
        layer.expect("unilora_theta_d", (found[0],), found)
        rank = layer.settings.integer("r", 4, 1)
        if rank > max(layer.out_features, layer.in_features):
            raise layer.settings.error("r", f"got {rank}, more than {layer.module} has inputs and outputs")
        if "unilora_indices_A" in layer:
            layer.expect("unilora_indices_A", (rank, layer.in_features))
            layer.expect("unilora_indices_B", (layer.out_features, rank))
        elif layer.module == next(iter(layer.siblings())) and (entries := self._drawing(layer, 1)[0]) > MOST_DRAWN:
            raise layer.settings.error(
                "r", f"the places of {entries:,} entries would be drawn, and at most {MOST_DRAWN:,} are"
            )

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        numbers = layer.shared("unilora_theta_d")
        a, b = self._places(layer, len(numbers))
        if len(numbers) == 0 or not 0 <= int(min(a.min(), b.min())) <= int(max(a.max(), b.max())) < len(numbers):
            raise layer.error(f"names numbers beyond the {len(numbers)} there are", "Save the adapter again")
        if "unilora_scales_A" in layer:
            scales = layer.read("unilora_scales_A"), layer.read("unilora_scales_B")
        else:
            every = _drawn(*self._drawing(layer, len(numbers)))
            rooted = torch.bincount(every, minlength=len(numbers)).float().clamp_min(1).rsqrt()
            scales = rooted[a], rooted[b]
        return (numbers[b] * scales[1]) @ (numbers[a] * scales[0])

    def _places(self, layer: Layer, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which number every entry of A and of B is."""
        if "unilora_indices_A" in layer:
            return layer.indices("unilora_indices_A"), layer.indices("unilora_indices_B")
        rank, start = layer.settings.integer("r", 4, 1), 0
        every = _drawn(*self._drawing(layer, count))
        for name, other in layer.siblings().items():
            if name == layer.module:
                break
            start += rank * (other.in_features + other.out_features)
        middle = start + rank * layer.in_features
        end = middle + rank * layer.out_features
        return every[start:middle].reshape(rank, -1), every[middle:end].reshape(-1, rank)

    def _drawing(self, layer: Layer, count: int) -> tuple[int, int, int]:
        rank = layer.settings.integer("r", 4, 1)
        entries = sum(rank * (one.in_features + one.out_features) for one in layer.siblings().values())
        return entries, count, layer.settings.integer("proj_seed", 42)


@lru_cache(maxsize=1)
def _drawn(entries: int, count: int, seed: int) -> torch.Tensor:
    """The place of every entry of all modules: each number as often as any other, shuffled; as numpy draws it."""
    import numpy as np
    import torch

    generator = np.random.default_rng(seed)
    places = np.repeat(np.arange(count), entries // count)
    if entries % count:
        places = np.concatenate([places, generator.choice(count, size=entries % count, replace=False)])
    generator.shuffle(places)
    return torch.as_tensor(places, dtype=torch.int64)
