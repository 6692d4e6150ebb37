"""Arrow: each token is answered by the adapters whose strongest direction it points along; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.composer import ComposerOptions, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.routing.adapter_composition import AdapterComposer, AdapterComposition
from genepool.composition.routing.general_knowledge import without_general
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.network import Network

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from genepool.composition.mixing.layer_factors import LayerFactors
    from genepool.composition.peft_export import PeftExport
    from genepool.composition.routing.adapter_mixture import TokenRouter


#: What PEFT's `ArrowConfig` is made with, and the adapters in their order.
ARROW_FILE = "arrow_config.json"


class ArrowOptions(ComposerOptions):
    """Options of Arrow."""

    top: int = Field(default=3, ge=1, le=10**4, description="Adapters that answer a token, at most (PEFT's default).")
    temperature: float = Field(default=1.0, gt=0, le=1e6, description="Divides the scores in the softmax (PEFT's).")
    general: tuple[str, ...] = Field(
        default=(),
        max_length=10**4,
        description="Names of those skills that hold general knowledge: they do not answer, and the mean of their "
        "factors is taken out of the others' (PEFT's use_gks).",
    )


@register(
    "arrow",
    source="Ostapenko et al., Towards Modular LLMs by Building and Routing to a Library of LoRAs, arXiv:2405.11157; "
    "defaults of PEFT's ArrowConfig; prototypes are exact, where PEFT takes 15 power iterations from a random start",
    when="Adapters are there, and no data of the tasks that they will be asked.",
    needs="nothing",
    out="module",
    cost="a singular value decomposition of the small product of each adapter's factors in each layer",
)
class Arrow(AdapterComposer[ArrowOptions]):
    """In each layer `sum_i w_i s_i B_i A_i x`, w the softmax over the largest `abs(x . v_i) / temperature`.

    v_i is the unit vector that `B_i A_i` makes longest, its first right singular vector: it has no sign, hence the
    absolute value. Adapters that leave a layer alone take no part in it. With `general`, A_i and B_i have lost the mean
    of the general skills' factors first. Tasks, where they are named, only tell who answers them.
    """

    def fit(self, world: World) -> Composition:
        from genepool.composition.routing.adapter_mixture import AdapterMixture
        from genepool.composition.routing.arrow_router import prototypes
        from genepool.composition.routing.hooked_model import hooked_kind
        from genepool.composition.routing.shares import shares_of_tasks

        skills, network = world.skills, world.network
        names, vectors = self.experts(skills)
        mixture = AdapterMixture(skills, network, vectors)
        try:
            tensors = {f"prototypes/{name}": prototypes(layer) for name, layer in mixture.layers.items()}
            mixture.route(self.router(tensors, mixture.layers, network))
            model = hooked_kind(type(network))(network, mixture, names, self.name, "")
            record = shares_of_tasks(model, world)
        finally:
            mixture.remove()
        return ArrowComposition(self, skills, record, tensors)

    def experts(self, skills: SkillSet) -> tuple[list[str], TaskVectors]:
        """See `AdapterComposer.experts`: without what is general, where some skills are."""
        if not self.options.general:
            return super().experts(skills)
        names, changes = without_general(skills, self.options.general, "--set general")
        return names, skills.vectors(changes=changes)

    def restore(self, saved: Saved) -> Composition:
        _, vectors = self.experts(saved.skills)
        tensors = {}
        for name, layer in _layers(saved).items():
            tensor = f"prototypes/{name}"
            tensors[tensor] = saved.tensor(tensor, (len(vectors.changes), layer))
        return ArrowComposition(self, saved.skills, saved.record, tensors)

    def router(
        self, tensors: Mapping[str, torch.Tensor], layers: Mapping[str, LayerFactors], network: Network
    ) -> TokenRouter:
        import torch

        from genepool.composition.routing.arrow_router import ArrowRouter

        vectors = {name: tensors[f"prototypes/{name}"] for name in layers}
        absent = {name: torch.tensor(layer.ranks) == 0 for name, layer in layers.items()}
        return ArrowRouter(vectors, absent, self.options.top, self.options.temperature)


class ArrowComposition(AdapterComposition):
    """Skills beside the base, and the prototypes of each layer."""

    composer: Arrow

    def write_peft(self, folder: Path) -> PeftExport:
        """Adapters for PEFT's `create_arrow_model`, and the values of its `ArrowConfig`.

        Raises:
            InputError: PEFT's Arrow takes no such adapters.
        """
        from genepool.composition.peft_export import PeftExport, write_experts, write_json

        options = self.composer.options
        named, vectors = self.composer.experts(self.skills)
        ranks = set()
        for name in vectors.names:
            if len(vectors.holders(name)) < len(vectors.changes):
                raise InputError(
                    f"not every skill changes {name}, and PEFT's Arrow takes adapters of the same layers alone",
                    where=self.name,
                    fix="Use the folder as it is",
                )
            for skill in vectors.holders(name):
                product = vectors.factors(skill, name)
                assert product is not None
                ranks.add(product.left.shape[1])
        if len(ranks) > 1:
            raise InputError(
                f"the skills have ranks {sorted(ranks)}, and PEFT's Arrow takes adapters of one rank alone",
                where=self.name,
                fix="Use the folder as it is",
            )
        names = [f"task_{number}" for number in range(len(vectors.changes))]
        # What is general is taken out already, so PEFT has nothing to subtract.
        lessened = [self.skills.on_base(one) for one in vectors.changes] if options.general else None
        write_experts(self.skills, folder, names, lessened)
        config = {"top_k": min(options.top, len(names)), "router_temperature": options.temperature, "rng_seed": 0}
        write_json({"arrow_config": config, "adapters": names, "skills": named}, folder / ARROW_FILE)
        warning = (
            "PEFT finds the directions by 15 power iterations, so its weights differ where an adapter's two largest "
            "singular values are close"
        )
        return PeftExport(
            folder, f"adapters for PEFT's Arrow, and its settings in {ARROW_FILE}", len(names), (warning,)
        )


def _layers(saved: Saved) -> dict[str, int]:
    """The numbers that come into each layer that the skills change, by the name of its matrix."""
    from genepool.composition.branches import check_branches
    from genepool.composition.linear_layers import outlined_layers

    check_branches(saved.skills)
    known = outlined_layers(saved.skills.base)
    return {name: known[name].inputs for name in saved.skills.vectors().names}
