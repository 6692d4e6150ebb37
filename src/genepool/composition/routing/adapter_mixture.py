"""LoRA skills as experts of every linear layer, mixed by weights that a router gives each token.

A layer adds `sum_i w_i s_i B_i A_i x` to what it returns (`mixing`); the layers' own weights stay as they are. Uses
`mixing` and `branches`; the routers of single composers are beside this file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from genepool.composition.branches import check_branches
from genepool.composition.mixing.attached import AttachedSkills
from genepool.composition.mixing.layer_factors import LayerFactors
from genepool.composition.mixing.mixtures import ByLayer
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError
from genepool.tasks.network import Network

#: Gets the name of a layer's matrix and the weights of its tokens, (rows, tokens, skills).
Watch = Callable[[str, torch.Tensor], None]


class TokenRouter(ABC):
    """Gives every token of every layer the weights of the skills."""

    @abstractmethod
    def weights(self, name: str, inputs: torch.Tensor) -> torch.Tensor | None:
        """The weights of the skills in one layer, (rows, tokens, skills); None where the base answers alone.

        Args:
            name: of the layer's matrix.
            inputs: of the layer, (rows, tokens, inputs).
        """

    def attach(self, network: Network) -> Sequence[Any]:
        """Puts the hooks by which it sees what it decides by; their handles."""
        return ()


class AdapterMixture:
    """Skills that add to the layers of a network from now on; a router is given to it before anything is asked.

    Args:
        skills: LoRA skills; see `check_branches`.
        network: the base, loaded.
        vectors: what the skills that are mixed change; those of all skills when None.
    """

    def __init__(self, skills: SkillSet, network: Network, vectors: TaskVectors | None = None) -> None:
        check_branches(skills)
        changed = skills.vectors() if vectors is None else vectors
        self._network, self._attached = network, AttachedSkills(network.model, changed)
        self._router: TokenRouter | None = None
        self._watch: Watch | None = None
        self._handles: list[Any] = []

    @property
    def layers(self) -> dict[str, LayerFactors]:
        """The skills' factors, by the name of the layer's matrix, in the order of the base's tensors."""
        return self._attached.layers

    def route(self, router: TokenRouter) -> None:
        """Lets a router decide."""
        self._router = router
        self._handles = list(router.attach(self._network))
        self._attached.mixture = ByLayer(self._weights)

    def remove(self) -> None:
        """Makes the network the base again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._attached.remove()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the network is the base."""
        with self._attached.mixing(None):
            yield

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Inside, every layer shows the weights that it uses; one watches at a time."""
        assert self._watch is None
        self._watch = watch
        try:
            yield
        finally:
            self._watch = None

    def _weights(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        assert self._router is not None
        found = self._router.weights(name, inputs)
        if found is None:
            return inputs.new_zeros(1, 1, self._attached.skills)
        rows, tokens, skills = found.shape
        if inputs.shape[:2] == (rows * tokens, 1):
            # Some networks flatten the tokens of all rows in front of a layer, OPT's among them.
            found = found.reshape(-1, 1, skills)
        elif len(inputs) != rows:
            raise InputError(
                f"is given {len(inputs)} rows in a batch of {rows}, so it cannot be told which token each is",
                where=name,
                fix="Name adapters that leave this layer alone",
            )
        else:
            # The head may be given the last places alone.
            found = found[:, -inputs.shape[1] :]
        if self._watch is not None:
            self._watch(name, found.detach())
        return found
