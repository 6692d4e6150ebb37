"""Policies: small networks that read what is observed of an environment and choose what is done.

A policy that chooses among actions is also a classifier of observations written as numbers, so everything that teaches,
merges or composes classifiers does so with policies: a line of demonstrations is {"prompt": "0.01 -0.2 0.03 0.1",
"answer": "1"}. `network` is the network itself. Importing this file needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError
from genepool.tasks.answers import AnswerBatch, Question, class_batch
from genepool.tasks.decoding import DEFAULT_BATCH
from genepool.tasks.environments import Spaces
from genepool.tasks.models import Capability, model_kind
from genepool.tasks.network import Network
from genepool.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch

MODEL_TYPE = "genepool_policy"


class Policy(Network):
    """What all policies in memory have: they act."""

    kind = "a policy"

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Policy:
        """See `Model.load`."""
        result = super().load(weights, device=device, dtype=dtype)
        result.assign(weights)
        return result

    @classmethod
    def _built(cls, weights: Weights, kind: torch.dtype) -> Any:
        """The network of the config; `load` fills it."""
        from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape

        return PolicyNetwork(PolicyShape.of(weights.config, weights.name)).eval().to(dtype=kind)

    def _rebuilt(self, weights: Weights) -> Mapping[str, torch.Tensor]:
        """Names and layout are the same in memory: what differs is told."""
        return {name: weights.read(name) for name in weights.names()}

    @classmethod
    def outline(cls, weights: Weights) -> Any:
        """See `Network.outline`."""
        import torch

        return cls._built(weights, torch.float32)

    @classmethod
    def heads_of(cls, network: Any) -> list[str]:
        """The last layer."""
        return ["head"]

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

    def hidden_states(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> list[tuple[torch.Tensor, ...]]:
        """See `Model.hidden_states`; an observation is one place, and it stands for the embedding."""
        import torch

        parts = []
        with torch.inference_mode():
            for rows, part in self._parts(prompts, batch_size):
                with self.passing(rows):
                    parts.append(self.model.states(part))
        layers = [torch.cat(layer).float().cpu()[:, None] for layer in zip(*parts, strict=True)]
        return list(zip(*layers, strict=True))

    def _parts(self, prompts: Sequence[str], size: int) -> Iterator[tuple[range, torch.Tensor]]:
        """(numbers of some prompts, their observations), at most `size` at a time."""
        observed = self._observed(prompts)
        for start in range(0, len(prompts), size):
            rows = range(start, min(start + size, len(prompts)))
            yield rows, observed[start : rows.stop]

    def _observed(self, prompts: Sequence[str]) -> torch.Tensor:
        """The observations that prompts write down."""
        import numpy as np

        count = self.spaces.observations
        rows = [_numbers(prompt, count) for prompt in prompts]
        return self.read(np.array(rows, np.float32).reshape(len(rows), count))


@model_kind
class ChoosingPolicy(Policy):
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

    def class_scores(self, prompts: Sequence[str], batch_size: int = DEFAULT_BATCH) -> torch.Tensor:
        """See `Model.class_scores`."""
        import torch

        with torch.inference_mode():
            logits = [self.run(rows, observations=part) for rows, part in self._parts(prompts, batch_size)]
            return torch.cat(logits).float().log_softmax(-1).cpu()

    def answer_batches(
        self,
        questions: Sequence[Question],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool = False,
        packed: bool = False,
    ) -> list[AnswerBatch]:
        """See `Model.answer_batches`."""
        made = []
        for start in range(0, len(questions), batch_size):
            rows = range(start, min(start + batch_size, len(questions)))
            observed = self._observed([questions[row].prompt for row in rows])
            made.append(class_batch({"observations": observed}, rows, questions, self.labels, self.title))
        return made

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        """See `Model.answer_logits`."""
        logits: torch.Tensor = self.run(batch.numbers, observations=batch.inputs["observations"])
        return logits.float()


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
