"""The network of a policy: linear layers with tanh between them, in plain torch.

Stored as an ordinary checkpoint folder, config.json and safetensors, with tensors named as large models' are
(`layers.1.weight`), so that layers are found. The testbed of policies evolves it, `Policy` asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from genepool.checked import is_number, is_whole
from genepool.errors import InputError
from genepool.tasks.environments import Spaces
from genepool.tasks.models.policy import MODEL_TYPE

# A merge changes no size, so anything large is not ours.
_LARGEST, _DEEPEST = 4096, 64


@dataclass(frozen=True)
class PolicyShape:
    """What decides the tensors' shapes, and what an observation is divided by.

    Attributes:
        spaces: what is observed and what can be done.
        hidden: width of the hidden layers.
        layers: how many there are.
        scales: what each number of an observation is divided by before it is read.
    """

    spaces: Spaces
    hidden: int
    layers: int
    scales: tuple[float, ...]

    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return {
            "architectures": ["PolicyNetwork"],
            "model_type": MODEL_TYPE,
            "observation_size": self.spaces.observations,
            "observation_scales": list(self.scales),
            "num_actions": self.spaces.choices,
            "action_numbers": self.spaces.numbers,
            "action_bound": self.spaces.bound,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "dtype": "float32",
        }

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, where: str) -> PolicyShape:
        """The shape that a config.json describes.

        Raises:
            InputError: it is not one of a policy.
        """
        if config is None or config.get("model_type") != MODEL_TYPE:
            raise InputError("is no policy", where=where, fix="Name a model built with --bed policies")
        fix = "Copy the base's config.json"
        sizes = {}
        for key, least, most in (
            ("observation_size", 1, _LARGEST),
            ("num_actions", 0, _LARGEST),
            ("action_numbers", 0, _LARGEST),
            ("hidden_size", 1, _LARGEST),
            ("num_hidden_layers", 1, _DEEPEST),
        ):
            value = config.get(key)
            if not is_whole(value, least, most):
                raise InputError(
                    f"got {value!r:.40}, expected a whole number from {least} to {most}",
                    where=f"{where}:config.json:{key}",
                    fix=fix,
                )
            sizes[key] = value
        choices, numbers, bound = sizes["num_actions"], sizes["action_numbers"], config.get("action_bound")
        if (choices > 0) == (numbers > 0) or not is_number(bound, 0, 1e6):
            raise InputError(
                "has to choose among actions or to act by bounded numbers", where=f"{where}:config.json", fix=fix
            )
        scales = config.get("observation_scales")
        count = sizes["observation_size"]
        if not isinstance(scales, list) or len(scales) != count or not all(is_number(one, 1e-6, 1e6) for one in scales):
            raise InputError(
                f"expected {count} numbers from 1e-6 to 1e6", where=f"{where}:config.json:observation_scales", fix=fix
            )
        spaces = Spaces(count, choices, numbers, float(bound))
        return cls(spaces, sizes["hidden_size"], sizes["num_hidden_layers"], tuple(map(float, scales)))


class PolicyNetwork(nn.Module):
    """Observations (n, numbers) in, logits of the actions or numbers before the bound (n, actions) out."""

    scales: torch.Tensor

    def __init__(self, shape: PolicyShape) -> None:
        super().__init__()
        self.shape = shape
        sizes = [shape.spaces.observations, *[shape.hidden] * shape.layers]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.head = nn.Linear(shape.hidden, shape.spaces.choices or shape.spaces.numbers)
        self.register_buffer("scales", torch.tensor(shape.scales), persistent=False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.states(observations)[-1])
        return out

    def states(self, observations: torch.Tensor) -> list[torch.Tensor]:
        """What is read, and what stands behind every hidden layer: (n, numbers), then (n, hidden) each."""
        found = [observations / self.scales]
        for layer in self.layers:
            found.append(torch.tanh(layer(found[-1])))
        return found
