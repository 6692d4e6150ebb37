"""Policies: small networks that read what is observed of an environment and choose what is done.

A policy that chooses among actions is also a classifier of observations written as numbers, so everything that teaches,
merges or composes classifiers does so with policies: a line of demonstrations is {"prompt": "0.01 -0.2 0.03 0.1",
"answer": "1"}. `network` is the network itself. Importing this file needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.environments import Spaces
from genepool.tasks.models import Capability, model_kind
from genepool.tasks.own_network import OwnClassifier, OwnNetwork, built_to_fit
from genepool.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch

MODEL_TYPE = "genepool_policy"


class Policy(OwnNetwork):
    """What all policies in memory have: they act."""

    kind = "a policy"
    input_name: ClassVar[str] = "observations"

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        """The network of the config; `load` fills it."""
        from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape

        shape = PolicyShape.of(weights.config, weights.name)
        return built_to_fit(functools.partial(PolicyNetwork, shape), weights).eval().to(dtype=kind)

    @property
    def spaces(self) -> Spaces:
        """See `Actor.spaces`."""
        found: Spaces = self.model.shape.spaces
        return found

    def act(self, observations: np.ndarray) -> np.ndarray:
        """See `Actor.act`; the likeliest action, or the numbers."""
        import torch

        with torch.inference_mode():
            return actions_of(self.run(range(len(observations)), observations=self.read(observations)), self.spaces)

    def read(self, observations: np.ndarray) -> torch.Tensor:
        """Observations as the network reads them."""
        import torch

        return torch.from_numpy(observations).to(device=self.device, dtype=next(self.model.parameters()).dtype)

    def _inputs(self, prompts: Sequence[str]) -> torch.Tensor:
        """The observations that prompts write down."""
        import numpy as np

        count = self.spaces.observations
        rows = [_numbers(prompt, count) for prompt in prompts]
        return self.read(np.array(rows, np.float32).reshape(len(rows), count))


@model_kind
class ChoosingPolicy(OwnClassifier, Policy):
    """A policy that chooses among actions; it can be asked as a classifier too."""

    kind = "a policy that chooses among actions"
    can: ClassVar[frozenset[Capability]] = frozenset({"classes", "hidden states", "episodes"})

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs of our own type whose actions are chosen."""
        return config.get("model_type") == MODEL_TYPE and not config.get("action_numbers")

    @property
    def labels(self) -> tuple[str, ...]:
        """The numbers of the actions."""
        return tuple(map(str, range(self.spaces.choices)))


@model_kind
class SteeringPolicy(Policy):
    """A policy that acts by numbers, such as a torque."""

    kind = "a policy that acts by numbers"
    can: ClassVar[frozenset[Capability]] = frozenset({"hidden states", "episodes"})

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """Configs of our own type with numbers to act by."""
        return config.get("model_type") == MODEL_TYPE and bool(config.get("action_numbers"))


def actions_of(out: torch.Tensor, spaces: Spaces) -> np.ndarray:
    """What a network's last layer means.

    Args:
        out: shape (rows, choices or numbers).
        spaces: of the policy.

    Returns:
        The first likeliest action of each row, or numbers within the bound; NaN where a row is not finite.
    """
    import numpy as np
    import torch

    if not spaces.choices:
        return np.asarray((spaces.bound * out.float().tanh()).cpu().numpy())
    chosen = out.argmax(-1).float().masked_fill(~torch.isfinite(out).all(-1), torch.nan)
    return np.asarray(chosen.cpu().numpy())


@functools.lru_cache(maxsize=2**16)
def _numbers(prompt: str, count: int) -> tuple[float, ...]:
    """The observation that a prompt writes down.

    A fit asks the same observations hundreds of times: each is taken apart once.

    Raises:
        InputError: it is not so many finite numbers.
    """
    words = prompt.split()
    try:
        found = tuple(map(float, words))
    except ValueError:
        found = ()
    # Larger ones are infinite in float32.
    if len(found) != count or not all(abs(one) < 1e30 for one in found):
        raise InputError(f"got {prompt[:40]!r}, expected an observation", where="prompt", fix=f"Give {count} numbers")
    return found
