"""PSEC: a small network reads the state and says how much of each LoRA skill all layers use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool.composition.blend import Blend
from genepool.composition.branches import factor_bytes
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import Model, open_model
from genepool.tasks.network import Network
from genepool.weights import Change

if TYPE_CHECKING:
    import torch

    from genepool.composition.context.context_network import ContextNetwork
    from genepool.composition.context.weighed_model import WeighedModel
    from genepool.tasks.answers import AnswerBatch


class PsecOptions(ModuleFitOptions):
    """Options of PSEC."""

    space: Literal["parameter", "output", "action"] = Field(
        default="parameter",
        description="Where skills are mixed: parameter (their changes of the weights), output (the logits of their "
        "models, or the numbers before their bound), or action (probabilities, or actions). Models that write take "
        "parameter alone.",
    )
    constant: bool = Field(
        default=False, description="One weight for each skill, whatever the state: the control, which folds."
    )
    hidden: int = Field(default=256, ge=1, le=4096, description="Width of the two hidden layers (the authors').")
    pull: float = Field(
        default=1.0,
        ge=0,
        le=1e6,
        description="Weight of `(mean a - 1/2)^2 + (mean a_last - 1)^2`, which draws to the last skill (the "
        "authors' two skills, whose factor of 16 is 1 here); 0 where no skill is the newest.",
    )
    steps: int = Field(default=1001, ge=1, le=10**6, description="Steps, at most (the authors').")
    learning_rate: float = Field(
        default=3e-4, gt=0, le=10, description="The first step size of Adam, which falls to 0 along a line (theirs)."
    )
    batch: int = Field(
        default=2048, ge=1, le=10**5, description="Inputs of each task in a step, at most (the authors' code)."
    )


@register(
    "psec",
    source="Liu et al., PSEC, arXiv:2502.05932: an MLP of 256 and 256, one vector for all layers, 1001 steps at 3e-4 "
    "in batches of 2048; the start at the mean of the skills is ours",
    when="How much of each adapter is needed depends on the state: of a policy, what it observes.",
    needs="answers",
    gradients=True,
    out="module",
    cost="a backward pass of the network for each step; in the other two spaces a pass of each skill's model",
)
class Psec(Composer[PsecOptions]):
    """`h = W0 x + b + sum_i a_i(s) B_i A_i x`, with a an MLP of the state s: an observation, or the base's last state.

    A task of episodes is shown by the skill that it belongs to.
    """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        return plan_kept(skills, sum(factor_bytes(skills, skills.memory_changes).values()), dtype=dtype)

    def fit(self, world: World) -> Composition:
        from genepool.composition.context.context_network import new_context
        from genepool.composition.context.states import PromptStates
        from genepool.composition.inputs import labelled_inputs

        options, skills = self.options, world.skills
        self.check_space(open_model(skills.base).kind)
        inputs = labelled_inputs(world)
        states = PromptStates(world.network)
        width = 0 if options.constant else states.of([inputs[0].questions[0].prompt]).shape[1]
        context = new_context(width, len(skills.skills), options.hidden, world.seed).to(world.network.device)
        whole = PsecComposition(self, skills, {}, context)
        model = whole.apply(world.network)
        try:
            named = {"composer": self.name, "options": options.model_dump(mode="json")}
            parameters = dict(context.named_parameters())
            record = fit_modules(world, model, parameters, options, named, inputs=inputs, penalty=self.pull_of(model))
            record |= {"weights": _means(model, inputs, skills.names)}
        finally:
            model.remove()
        world.network.assign(skills.base)
        return PsecComposition(self, skills, record, context.cpu())

    def check_space(self, kind: type[Model]) -> None:
        """Refuses a space that a kind of model has not.

        Raises:
            InputError: it writes, and skills are to be mixed elsewhere than in its weights.
        """
        if self.options.space != "parameter" and "classes" not in kind.can and "episodes" not in kind.can:
            raise InputError(
                f"{kind.kind} is mixed in parameter space alone, got {self.options.space}",
                where="--set space",
                fix="Leave it out; `contrastive` and `dynamic_logit_fusion` mix logits",
            )

    def restore(self, saved: Saved) -> Composition:
        from genepool.composition.context.context_network import ContextNetwork

        count, hidden = len(saved.skills.skills), self.options.hidden
        width = 0
        if not self.options.constant:
            width = saved.tensor("context/hidden.0.weight", (hidden, None)).shape[1]
            # Checked before a square of this width takes memory.
            saved.tensor("context/hidden.1.weight", (hidden, hidden))
        context = ContextNetwork(width, count, hidden)
        context.put(
            {name: saved.tensor(f"context/{name}", tuple(own.shape)) for name, own in context.named_parameters()}
        )
        return PsecComposition(self, saved.skills, saved.record, context)

    def pull_of(self, model: WeighedModel) -> Any:
        """What is added to the loss of a batch; None where nothing is."""
        strength = self.options.pull
        if not strength:
            return None

        def penalty(batch: AnswerBatch) -> torch.Tensor:
            weights = model.batch_weights(batch)
            return strength * ((weights.mean() - 0.5) ** 2 + (weights[:, -1].mean() - 1) ** 2)

        return penalty


class PsecComposition(Composition):
    """LoRA skills and the network that weighs them.

    Args:
        composer, skills, record: as for `Composition`.
        context: the network.
    """

    composer: Psec

    def __init__(self, composer: Psec, skills: SkillSet, record: Mapping[str, Any], context: ContextNetwork) -> None:
        super().__init__(composer, skills, record)
        self._context = context

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {f"context/{name}": tensor.detach() for name, tensor in self._context.named_parameters()}

    @property
    def labels(self) -> Mapping[str, list[str]]:
        return {"skills": self.skills.names}

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.context.weighed_model import weighed_kind

        return weighed_kind(open_model(self.skills.base).kind)

    def apply(self, network: Network) -> WeighedModel:
        from genepool.composition.context.states import PromptStates
        from genepool.composition.context.weighed_model import weighed_kind
        from genepool.composition.mixing.attached import AttachedSkills

        options = self.composer.options
        self.composer.check_space(type(network))
        attached = AttachedSkills(network.model, self.skills.vectors())
        context = self._context.to(network.device)
        kind = weighed_kind(type(network))
        return kind(
            network, attached, context, PromptStates(network), options.space, self.skills.names, self.name,
            self.fingerprint,
        )  # fmt: skip

    def fold(self) -> Change:
        """The sum of the skills by constant weights.

        Raises:
            InputError: the weights depend on the state, or the skills are not mixed in parameter space.
        """
        options = self.composer.options
        if not options.constant or options.space != "parameter":
            raise InputError(
                "chooses by what it reads, and no weights of a model do the same",
                where=self.name,
                fix="Use the folder as it is, or compose with --set constant=true",
            )
        vectors = self.skills.vectors()
        layout = CoefficientLayout(len(self.skills.skills), vectors.names)
        weights = self._context.out.weight.detach().cpu()[:, 0]
        coefficients = weights[:, None, None].expand(layout.shape)
        identities = [skill.fingerprint for skill in self.skills.skills]
        return self.skills.on_base(Blend(vectors, layout, coefficients, self.name, identities))


def _means(model: WeighedModel, inputs: Any, names: list[str]) -> dict[str, dict[str, float]]:
    """The mean weight of each skill on the inputs of each task: what the context tells apart."""
    found = {}
    for task in inputs:
        means = model.weights([question.prompt for question in task.questions]).mean(0)
        found[task.name] = {name: round(float(one), 4) for name, one in zip(names, means, strict=True)}
    return found
