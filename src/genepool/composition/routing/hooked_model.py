"""A network whose layers add experts while it answers, as a model of the base's kind that tasks can ask.

The weights of the skills are a function of each token, so all prompts are answered together, and reading with a cache
of keys and values equals reading at once. Uses `adapter_mixture` and tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from genepool.composition.around_one import ModelAroundOne
from genepool.composition.routing.adapter_mixture import AdapterMixture
from genepool.composition.routing.shares import token_weights, used_skills
from genepool.tasks.environments import Spaces
from genepool.tasks.models import Model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.models.policy import Policy
from genepool.tasks.network import Network
from genepool.tasks.used_skills import UsedSkills

if TYPE_CHECKING:
    import numpy as np


class HookedModel(ModelAroundOne):
    """A base, changed in place from now on; `hooked_kind` gives the class for a kind of base.

    Args:
        base: the network.
        mixture: what its layers add.
        skill_names: of the experts.
        name: what the user calls the composition.
        fingerprint: of the composition.
    """

    def __init__(
        self, base: Network, mixture: AdapterMixture, skill_names: Sequence[str], name: str, fingerprint: str
    ) -> None:
        super().__init__(base, name, fingerprint)
        self.mixture, self.skill_names = mixture, list(skill_names)

    @property
    def model(self) -> Any:
        """The network."""
        return self.base.model

    @property
    def spaces(self) -> Spaces:
        """As the base's."""
        assert isinstance(self.base, Policy)
        return self.base.spaces

    def act(self, observations: np.ndarray) -> np.ndarray:
        """See `Actor.act`; an observation is a token."""
        assert isinstance(self.base, Policy)
        return self.base.act(observations)

    def read(self, prompt: str) -> None:
        """Reads a prompt, for whoever watches the mixture."""
        self.base.hidden_states([prompt])

    def token_weights(self, prompt: str, answer: str = "") -> tuple[list[str], torch.Tensor]:
        """The tokens of a prompt and an answer, and the weights of the skills at each; see `token_weights`."""
        if not isinstance(self.base, LanguageModel):
            self._cannot("tell who answers token by token")
        return token_weights(self.base, self.base.model, self.mixture, prompt, answer)

    def skills_used(self, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
        """See `Model.skills_used`."""
        return used_skills(self, prompts, answers)

    def remove(self) -> None:
        """Makes the network the base again; the model must not be asked any more."""
        self.mixture.remove()


@functools.cache
def hooked_kind(base: type[Model]) -> type[HookedModel]:
    """The class of compositions that answer as a kind of model does, which can all that it can."""
    words = base.kind.split(" ", 1)[1]
    return type(
        f"Hooked{base.__name__}",
        (HookedModel,),
        {"kind": f"a token-routed {words}", "can": base.can, "reads": base.reads, "__doc__": f"A mixed {words}."},
    )
