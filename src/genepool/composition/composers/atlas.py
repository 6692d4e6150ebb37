"""aTLAS: an anisotropic scale for every block of every skill, learned from a few labelled examples, or to unlearn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from genepool.composition.coefficients import CoefficientLayout, Parametrisation, SharedScales
from genepool.composition.composer import register
from genepool.composition.fitting import FitOptions, ObjectiveName
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.skill_set import SkillSet
from genepool.errors import InputError, nearest
from genepool.training import Optimisation

if TYPE_CHECKING:
    from genepool.composition.world import World


class AtlasOptions(FitOptions):
    """Options of aTLAS."""

    objective: ObjectiveName = Field(
        default="likelihood",
        description="What a step minimises; see `adamerging`. The authors': the likelihood of the right answers.",
    )
    learning_rate: float = Field(
        default=0.1,
        gt=0,
        description="The largest step size (the authors', for few examples; to unlearn, theirs is 0.002 to 0.01).",
    )
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's decay of the scales towards 0 (the authors').")
    clip: float = Field(default=1.0, ge=0, description="Largest norm of the gradient; 0 does not clip (the authors').")
    partitions: int = Field(
        default=1, ge=1, le=4096, description="Parts of every tensor, drawn at random, with a scale each."
    )
    parts_seed: int = Field(default=0, ge=0, lt=2**63, description="Decides which entries belong to which part.")
    forget: tuple[str, ...] = Field(
        default=(), description="Tasks to unlearn: their loss is maximised, that of all other tasks minimised."
    )
    control: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="To unlearn: use only states in which the other tasks keep this share of the held-out answers that "
        "the base predicts right (the authors'); 0 asks for nothing.",
    )


@register(
    "atlas",
    source="Zhang et al., Knowledge Composition using Task Vectors with Learned Anisotropic Scaling, arXiv:2407.02880: "
    "start 0, AdamW with decay 0.1, clip 1, rate 0.1 with a cosine for few examples",
    when="Labelled examples of a task are there that no single skill is good at; or a task is to be unlearned.",
    needs="answers",
    gradients=True,
    out="weights",
    cost="as adamerging; with partitions, once more a pass over the skills' entries in a step",
    skills=(1, None),
)
class AnisotropicScaling(LearnedMerge[AtlasOptions]):
    """`th_b = th0_b + sum_i sum_p c_ibp (m_p * t_ib)`; m_p are masks of the parts of tensor b, drawn from a hash.

    To unlearn, the loss is `-L` on the tasks of `forget` and `+L` on the others, the control set, which hold the rest
    in place. The state with the lowest loss is used, of those in which they keep 95% of what they had right.
    """

    def parametrised(self, skills: SkillSet, layout: CoefficientLayout, seed: int) -> Parametrisation:
        return SharedScales(layout, range(len(layout.names)), 0.0)

    def parts(self) -> int:
        return self.options.partitions

    def parts_seed(self) -> int:
        return self.options.parts_seed

    def optimisation(self) -> Optimisation:
        options = self.options
        return Optimisation(
            options.steps,
            options.learning_rate,
            shape="cosine",
            weight_decay=options.weight_decay,
            clip=options.clip,
        )

    def least_control(self) -> float:
        return self.options.control if self.options.forget else 0.0

    def signs(self, world: World) -> dict[str, float]:
        known = [composed.task.name for composed in world.tasks]
        for name in self.options.forget:
            if name not in known:
                raise InputError(f"there is no task '{name}'", where="--set forget", fix=nearest(name, known))
        if self.options.forget and len(set(self.options.forget)) == len(known):
            raise InputError(
                "every task is to be unlearned, so nothing holds the rest of the model in place",
                where="--set forget",
                fix="Name control tasks in --tasks too",
            )
        return dict.fromkeys(self.options.forget, -1.0)
