"""A base and skills as the model that a list of requests is put to: each prompt is answered by the skill it names.

Stands where a `Source` and a `Model` do in `genepool generate`. Uses `requests` and `shared_network`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.composition.composed_model import ComposedModel
from genepool.composition.mixing.requests import SkillRequest, skills_of_requests
from genepool.errors import InputError
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, PromptTooLong, Written, check_length
from genepool.tasks.models import Capability, Model, Source, open_model
from genepool.tasks.tokenized import TokenizedNetwork
from genepool.tasks.used_skills import UsedSkills
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch

    from genepool.composition.mixing.shared_network import SharedNetwork


class RequestedSource(Source):
    """A base and the skills that requests name.

    Args:
        base: a folder, a file or a hub model.
        requests: who is to answer what.
        allow_pickle: also open PyTorch's .bin and .pt files, tensors only.

    Raises:
        InputError: as `skills_of_requests`.
    """

    def __init__(self, base: str, requests: Sequence[SkillRequest], *, allow_pickle: bool = False) -> None:
        self.name, self.requests = base, requests
        self.skills = skills_of_requests(base, requests, allow_pickle=allow_pickle)

    @property
    def fingerprint(self) -> str:
        """Of the base."""
        return self.skills.base.fingerprint()

    @property
    def kind(self) -> type[Model]:
        """The base's."""
        return open_model(self.skills.base).kind

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """The base in memory with the skills beside it."""
        from genepool.composition.mixing.shared_network import SharedNetwork

        return RequestedModel(SharedNetwork(self.skills, device, dtype), self.requests, self.name)


class RequestedModel(ComposedModel):
    """A base in memory whose prompts are those of requests, in order.

    Args:
        shared: the base and the skills.
        requests: who answers; questions name as many prompts.
        name: what the user calls the base.
    """

    kind = "a base with skills"
    can: ClassVar[frozenset[Capability]] = frozenset({"text"})

    def __init__(self, shared: SharedNetwork, requests: Sequence[SkillRequest], name: str) -> None:
        self._shared, self._requests = shared, tuple(requests)
        self._name, self._fingerprint = name, shared.skills.base.fingerprint()

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """No config describes one."""
        return False

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Model:
        """Refused: weights alone name no skills."""
        raise InputError("weights alone name no skills", where=weights.name, fix="Name them in requests")

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        return self._shared.network.device

    def spoiled(self) -> list[tuple[str, str]]:
        """(what answers, its tensor that holds NaN or infinity) of all that requests name, each once."""
        numbers = {skill.name: number for number, skill in enumerate(self._shared.skills.skills)}
        return [
            (skill or self.name, tensor)
            for skill in dict.fromkeys(one.skill for one in self._requests)
            if (tensor := self._shared.spoiled(numbers.get(skill, -1))) is not None
        ]

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """As the base does."""
        return self._shared.network.chat_text(messages)

    def write(
        self, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int = DEFAULT_BATCH
    ) -> list[Written]:
        """See `Model.write`; each prompt is answered by the skill of its request."""
        self._check_prompts(prompts)
        numbers = {skill.name: number for number, skill in enumerate(self._shared.skills.skills)}
        return self._shared.ask(
            [numbers.get(one.skill, -1) for one in self._requests[: len(prompts)]],
            lambda network, some: network.write(
                [prompts[i] for i in some], [keys[i] for i in some], decoding, batch_size
            ),
        )

    def _check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuses a prompt that the base cannot read, naming the line of its request: of a batch nobody could tell."""
        network = self._shared.network
        if not isinstance(network, TokenizedNetwork):
            return
        for request, prompt in zip(self._requests, prompts, strict=False):
            try:
                check_length(network, [network.encode(prompt)])
            except InputError as error:
                fix = "Shorten it" if isinstance(error, PromptTooLong) else error.fix
                raise InputError(error.what, where=f"{request.where}:prompt", fix=fix) from None

    def skills_used(self, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
        """See `Model.skills_used`: those that the requests name."""
        return [UsedSkills({one.skill: 1.0} if one.skill else {}) for one in self._requests[: len(prompts)]]
