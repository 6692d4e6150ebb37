"""K-shot experts: adapters that do best on a few examples of a new task and are unlike, behind a token router."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from genepool import progress
from genepool.composition.composer import register
from genepool.composition.composition import Composition, Saved
from genepool.composition.inputs import labelled_inputs
from genepool.composition.loss_search import answers_loss
from genepool.composition.routing.adapter_composition import AdapterComposer, AdapterComposition
from genepool.composition.routing.router_options import RouterFitOptions
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.tasks import DEFAULT_BATCH
from genepool.tasks.answering import answer
from genepool.tasks.models import check_kind, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genepool.composition.mixing.layer_factors import LayerFactors
    from genepool.composition.routing.adapter_mixture import TokenRouter


class KShotOptions(RouterFitOptions):
    """Options of K-shot experts."""

    experts: int = Field(default=4, ge=1, le=10**4, description="Adapters that are kept, at most (ours).")
    cosine: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Leave out an adapter whose change has a larger cosine than this with one that is kept (ours).",
    )


@dataclass(frozen=True)
class JudgedAdapter:
    """An adapter as the examples judge it.

    Attributes:
        name: of the skill.
        score: mean score of its answers, each task counting once.
        loss: minus the mean log-likelihood of the right answers; infinite where that is no number.
        sketch: of its change.
    """

    name: str
    score: float
    loss: float
    sketch: np.ndarray


@register(
    "k_shot",
    source="Yang et al., Leveraging Open Knowledge for Advancing Task Expertise in LLMs, arXiv:2408.15915: experts by "
    "K-shot score and likelihood, diversity among them, then a token router; the ranks, the cap and the router's form "
    "are ours",
    when="Many adapters are there, and a few labelled examples of a new task that none of them was made for.",
    needs="answers",
    gradients=True,
    out="module",
    cost="each adapter answers the examples once; then as lora_flow with the adapters that are kept",
    skills=(1, None),
)
class KShot(AdapterComposer[KShotOptions]):
    """Adapters in the order of the sum of two ranks, by score and by likelihood, are kept one by one.

    One whose cosine of `B A` with a kept one is above the cap is left out. Those that are kept are mixed in layer l by
    `softmax(W_l h_l)`, which starts at their mean. Every task that is named is the new task, whatever its name.
    """

    def fit(self, world: World) -> Composition:
        from genepool.composition.branches import check_branches
        from genepool.composition.routing.fitted import fit_router, zeros
        from genepool.composition.steering.layers import decoder_layers

        check_kind(LanguageModel, open_model(world.skills.base), self.name)
        check_branches(world.skills)
        found = judged(world, self.options.batch)
        order = ranked(found)
        kept, left = chosen(found, order, self.options.experts, self.options.cosine)
        ranking = [
            {
                "skill": found[at].name,
                "score": round(found[at].score, 6),
                "loss": round(found[at].loss, 6) if math.isfinite(found[at].loss) else None,
                "kept": at in kept,
                **({"why_not": left[at]} if at in left else {}),
            }
            for at in order
        ]
        progress.message(f"kept {', '.join(found[at].name for at in kept)} of {len(found)} adapters")
        skills = world.skills
        experts = SkillSet(skills.base, skills.reference, tuple(skills.skills[at] for at in kept))
        network = world.network
        layers = len(decoder_layers(network.model, network.title))
        width = network.model.config.get_text_config().hidden_size
        start = {"gates": zeros(network, layers, len(kept), width)}
        if len(kept) == 1:
            return AdapterComposition(self, experts, {"ranking": ranking}, {"gates": start["gates"].detach().cpu()})
        return fit_router(self, world, start, skills=experts, record={"ranking": ranking})

    def restore(self, saved: Saved) -> Composition:
        gates = saved.tensor("gates", (None, len(saved.skills.skills), None))
        return AdapterComposition(self, saved.skills, saved.record, {"gates": gates})

    def router(
        self, tensors: Mapping[str, torch.Tensor], layers: Mapping[str, LayerFactors], network: Network
    ) -> TokenRouter:
        from genepool.composition.routing.layer_gates import LayerGates, layer_numbers

        return LayerGates(tensors["gates"], None, 1.0, layer_numbers(layers, network))


def judged(world: World, batch: int) -> list[JudgedAdapter]:
    """Every skill as the examples of the world's tasks judge it; the network holds the base afterwards.

    Args:
        world: the skills and the tasks.
        batch: examples computed at once.
    """
    from genepool.skills.sketch import sketch

    network, inputs, found = world.network, labelled_inputs(world), []
    with progress.bar("asking the adapters", len(world.skills.skills), "adapters") as bar:
        for skill in world.skills.skills:
            bar.note(skill.name)
            network.assign(skill.change.applied())
            means = []
            for composed in world.tasks:
                outcomes = answer(network, composed.task, composed.examples, DEFAULT_BATCH, False)
                means.append(sum(one.score for one in outcomes) / len(outcomes))
            loss = answers_loss(network, inputs, batch)
            # NaN is below nothing, and would be the best.
            loss = loss if math.isfinite(loss) else math.inf
            found.append(JudgedAdapter(skill.name, sum(means) / len(means), loss, sketch(skill.change).whole))
            bar.advance()
    network.assign(world.skills.base)
    return found


def ranked(found: Sequence[JudgedAdapter]) -> list[int]:
    """The numbers of the candidates, the best first: by the sum of their ranks by score and by loss.

    Equal scores have one rank; of equal sums the smaller loss comes first, then the order in which they were named.
    """
    by_score = [sum(other.score > one.score for other in found) for one in found]
    by_loss = [sum(other.loss < one.loss for other in found) for one in found]
    return sorted(range(len(found)), key=lambda at: (by_score[at] + by_loss[at], found[at].loss, at))


def chosen(
    found: Sequence[JudgedAdapter], order: Sequence[int], count: int, cap: float
) -> tuple[list[int], dict[int, str]]:
    """The candidates that are kept, and why each of the others is not.

    Args:
        found: the candidates.
        order: their numbers, the best first.
        count: how many are kept, at most.
        cap: the largest cosine with one that is kept.
    """
    import numpy as np

    from genepool.skills.sketch import cosines

    kept: list[int] = []
    left: dict[int, str] = {}
    for at in order:
        if len(kept) == count:
            left[at] = f"{count} adapters were better"
            continue
        likest = cosines(found[at].sketch, np.stack([found[one].sketch for one in kept])) if kept else np.zeros(0)
        if len(likest) and likest.max() > cap:
            left[at] = f"cosine {likest.max():.3f} with {found[kept[int(likest.argmax())]].name}"
        else:
            kept.append(at)
    return kept, left
