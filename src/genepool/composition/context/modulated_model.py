"""A base with a pool of modulators, one of which answers each prompt, as a model of the base's kind."""

from __future__ import annotations

import functools

import torch

from genepool.composition.context.modulators import AttachedPool
from genepool.composition.context.states import PromptStates
from genepool.composition.context.weighed_model import StatedBatch, WeighedModel
from genepool.tasks.answers import AnswerBatch
from genepool.tasks.models import Model
from genepool.tasks.network import Network


class ModulatedModel(WeighedModel):
    """A weighed model whose weights are a 1 for the modulator with the nearest key; `modulated_kind` gives the class.

    Args:
        base: the network.
        pool: the modulators.
        states: what is read of prompts.
        name: what the user calls the composition.
        fingerprint: of the composition.

    Attributes:
        pool: the modulators.
        counts: while a task is learned, how often earlier ones took each modulator; None while it is asked.
    """

    def __init__(self, base: Network, pool: AttachedPool, states: PromptStates, name: str, fingerprint: str) -> None:
        names = [f"modulator {number}" for number in range(pool.skills)]
        super().__init__(base, pool, self._nearest, states, "parameter", names, name, fingerprint)
        self.pool, self.counts = pool, None

    counts: torch.Tensor | None

    def _nearest(self, states: torch.Tensor) -> torch.Tensor:
        return self.pool.one_hot(states, self.counts)

    def cosines(self, batch: AnswerBatch) -> torch.Tensor:
        """The cosine of each question's state and the key of its modulator, with the key's gradient."""
        assert isinstance(batch, StatedBatch)
        near = 2 * self.pool.similarities(batch.states) - 1
        return (near * self._nearest(batch.states)).sum(-1)


@functools.cache
def modulated_kind(base: type[Model]) -> type[ModulatedModel]:
    """The class of compositions that answer as a kind of model does, which can all that it can."""
    words = base.kind.split(" ", 1)[1]
    return type(
        f"Modulated{base.__name__}",
        (ModulatedModel,),
        {"kind": f"a modulated {words}", "can": base.can, "reads": base.reads, "__doc__": f"A modulated {words}."},
    )
