"""`AdapterComposition`: LoRA skills that a token router mixes, as something that is applied, saved and asked.

Composers of token routers give it the tensors of the router and a way to make the router of them. Uses
`adapter_mixture` and `hooked_model` where it is applied, so nothing heavy is imported here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from genepool.composition.composer import Composer, ComposerOptions
from genepool.composition.composition import Composition
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors
from genepool.errors import InputError
from genepool.tasks.models import Model, open_model
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import torch

    from genepool.composition.mixing.layer_factors import LayerFactors
    from genepool.composition.routing.adapter_mixture import TokenRouter

Options = TypeVar("Options", bound=ComposerOptions)


class AdapterComposer(Composer[Options], Generic[Options]):
    """A composer of LoRA skills whose weights a router gives to each token."""

    @abstractmethod
    def router(
        self, tensors: Mapping[str, torch.Tensor], layers: Mapping[str, LayerFactors], network: Network
    ) -> TokenRouter:
        """The router of some tensors: the very tensors, so that what moves them moves it.

        Args:
            tensors: what was learned, by name.
            layers: the skills' factors in each layer, by the name of its matrix.
            network: the base, loaded.
        """

    def experts(self, skills: SkillSet) -> tuple[list[str], TaskVectors]:
        """The names of the skills that the router mixes, and what each changes: all, unless it is said otherwise.

        Args:
            skills: the base and the skills.

        Raises:
            InputError: the skills are none that it can use.
        """
        return skills.names, skills.vectors()

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        factors = sum(
            4 * (product.left.numel() + product.right.numel())
            for change in skills.memory_changes
            for name in change.names()
            if (product := change.factors(name)) is not None
        )
        return plan_kept(skills, factors, gradient=self.gradients, dtype=dtype)


class AdapterComposition(Composition):
    """Skills beside the base, and the tensors of a router.

    Args:
        composer: makes the router.
        skills: LoRA skills.
        record: how it was fitted.
        tensors: of the router, by name.
    """

    composer: AdapterComposer[Any]

    def __init__(
        self,
        composer: AdapterComposer[Any],
        skills: SkillSet,
        record: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__(composer, skills, record)
        self._tensors = dict(tensors)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        return {"skills": self.composer.experts(self.skills)[0], "tensors": self.skills.vectors().names}

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.routing.hooked_model import hooked_kind

        return hooked_kind(open_model(self.skills.base).kind)

    def apply(self, network: Network) -> Model:
        from genepool.composition.routing.adapter_mixture import AdapterMixture
        from genepool.composition.routing.hooked_model import hooked_kind

        names, vectors = self.composer.experts(self.skills)
        mixture = AdapterMixture(self.skills, network, vectors)
        mixture.route(self.composer.router(self._tensors, mixture.layers, network))
        return hooked_kind(type(network))(network, mixture, names, self.name, self.fingerprint)

    def fold(self) -> NoReturn:
        """Refused: it chooses by token."""
        raise InputError(
            "gives every token other weights of the skills, and no weights of a model do the same",
            where=self.name,
            fix="Use the folder as it is, or compose with lorahub or scalearn, which fold",
        )
