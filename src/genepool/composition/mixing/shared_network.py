"""A base in memory and skills of it, asked together: a batch may hold requests for different skills.

Skills that are low-rank changes of linear layers and embeddings, or changes of biases and norms, run beside the base
in one pass. Any other skill is put into the network's weights while its own requests are answered. Used by
`requested_model` and `evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

from genepool import progress
from genepool.composition.mixing.attached import AttachedSkills, why_not_mixed
from genepool.composition.mixing.listeners import SkillByRequest
from genepool.composition.skill_set import SkillSet
from genepool.errors import InputError
from genepool.tasks.models import open_model
from genepool.tasks.network import Network
from genepool.weights.float_rows import is_finite_change

_Answer = TypeVar("_Answer")
#: Asks a model the requests of these numbers.
Ask = Callable[[Network, list[int]], Sequence[_Answer]]


class SharedNetwork:
    """A base that answers with its skills.

    Args:
        skills: the base and the skills.
        device: torch's name of the device.
        dtype: what it computes in.

    Attributes:
        network: the base.
        alone: the skills that do not run beside the base, by number, each with the reason.

    Raises:
        InputError: the base cannot be loaded, or has no network of its own.
    """

    def __init__(self, skills: SkillSet, device: str = "cpu", dtype: str = "float32") -> None:
        self.skills = skills
        source = open_model(skills.base)
        with progress.bar(f"loading {source.name}"):
            network = source.load(device, dtype)
        if not isinstance(network, Network):
            raise InputError(f"{source.kind.kind} takes no skills", where=source.name, fix="Name another base")
        self.network = network
        vectors = skills.vectors()
        self.alone = why_not_mixed(vectors, network.model, all_rows=True)
        beside = [number for number in range(len(skills.skills)) if number not in self.alone]
        self._attached = AttachedSkills(network.model, vectors, beside, all_rows=True)

    @property
    def asked(self) -> Network:
        """The base: what prepares prompts is its own."""
        return self.network

    def spoiled(self, skill: int) -> str | None:
        """The name of a tensor that holds NaN or infinity with a skill; None where there is none.

        Args:
            skill: its number; -1 for the base alone.
        """
        if skill >= 0:
            change = self.skills.memory_changes[skill]
            if found := next((name for name in change.names() if not is_finite_change(change, name)), None):
                return found
        return self._spoiled_base

    @cached_property
    def _spoiled_base(self) -> str | None:
        return self.network.spoiled

    def ask(self, skills: Sequence[int], ask: Ask[_Answer]) -> list[_Answer]:
        """Answers requests, each by its skill.

        Args:
            skills: of each request, the skill's number; -1 for the base alone.
            ask: asks the network some requests by their numbers, in order.

        Returns:
            An answer for each request.
        """
        answers: dict[int, _Answer] = {}
        together = [number for number, skill in enumerate(skills) if skill not in self.alone]
        if together:
            with self.network.listened(SkillByRequest(self._attached, [skills[number] for number in together])):
                answers |= dict(zip(together, ask(self.network, together), strict=True))
        for skill in sorted({*skills} & {*self.alone}):
            own = [number for number, one in enumerate(skills) if one == skill]
            self.network.assign(self.skills.skills[skill].change.applied())
            try:
                answers |= dict(zip(own, ask(self.network, own), strict=True))
            finally:
                self.network.assign(self.skills.base)
        return [answers[number] for number in range(len(skills))]
