"""LoraHub: how much of each adapter, by a search without gradients over a few labelled examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool import progress
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.composer import Composer, ComposerOptions, register
from genepool.composition.composition import Composition, MergedComposition, Saved
from genepool.composition.gradient import MergedNetwork
from genepool.composition.inputs import labelled_inputs
from genepool.composition.kept_fit import KeptFit
from genepool.composition.loss_search import LossSearch, answers_loss
from genepool.composition.residence import plan_residence
from genepool.composition.world import World
from genepool.threads import torch_threads
from genepool.training.run import sensible_threads

if TYPE_CHECKING:
    import numpy as np

_LIMIT = 1.5


class LoraHubOptions(ComposerOptions):
    """Options of LoraHub."""

    evaluations: int = Field(default=40, ge=1, le=10**5, description="Compositions tried (the authors').")
    penalty: float = Field(
        default=0.05, ge=0, description="Weight of the mean absolute coefficient in what is minimised (the authors')."
    )
    sigma: float = Field(default=0.5, gt=0, le=3, description="Standard deviation of the first compositions (ours).")
    batch: int = Field(default=16, ge=1, le=10**5, description="Examples computed at once.")


@register(
    "lorahub",
    source="Huang et al., LoraHub, arXiv:2307.13269: coefficients from -1.5 to 1.5, start 0, loss + 0.05 mean |w|, 40 "
    "evaluations; the search is CMA-ES, and products of factors are added up, not the factors",
    when="A few labelled examples of a new task are there, and adapters for other tasks; no gradients are needed.",
    needs="answers",
    out="adapter",
    cost="one forward of the merged network over all examples for each evaluation",
)
class LoraHub(Composer[LoraHubOptions]):
    """`th = th0 + sum_i w_i s_i B_i A_i`, w from a search of the likelihood of the right answers.

    The authors add up the factors, `(sum w_i B_i)(sum w_i A_i)`: then -w does what w does for one adapter, and terms of
    one adapter's B with another's A appear. Products have neither, and an adapter holds their sum without loss.
    """

    def fit(self, world: World) -> Composition:
        import torch

        with torch_threads(sensible_threads(world.skills.base)):
            plan = plan_residence(world.skills, dtype=world.dtype)
            progress.message(plan.text())
            held = [number for number, skill in enumerate(world.skills.names) if skill in plan.skills]
            vectors = world.skills.vectors(held)
            layout = CoefficientLayout(len(world.skills.skills), vectors.names)
            merged = MergedNetwork(world.network, vectors, layout)
            best, record = self._searched(world, merged)
        world.network.assign(world.skills.base)
        weights = torch.tensor(best, dtype=torch.float32)
        named = dict(zip(world.skills.names, weights.tolist(), strict=True))
        return MergedComposition(
            self, world.skills, {**record, "coefficients": named}, weights[:, None, None].expand(layout.shape)
        )

    def restore(self, saved: Saved) -> Composition:
        return MergedComposition.restored(self, saved)

    def _searched(self, world: World, merged: MergedNetwork) -> tuple[np.ndarray, dict[str, Any]]:
        """The best coefficients, shape (skills,), and how they were found."""
        import numpy as np
        import torch

        options, inputs, shape = self.options, labelled_inputs(world), merged.layout.shape

        def loss(point: np.ndarray) -> float:
            weights = torch.tensor(point, dtype=torch.float32)
            merged.put(weights[:, None, None].expand(shape))
            penalty = float(options.penalty * weights.abs().mean())
            return answers_loss(world.network, inputs, options.batch) + penalty

        named = {"composer": self.name, "options": options.model_dump(mode="json")}
        kept = KeptFit(world.work, {**world.identity(), **named, "tasks": [one.digest() for one in inputs]})
        start = np.zeros(shape[0])
        search = LossSearch(self.name, start, options.sigma, (-_LIMIT, _LIMIT), options.evaluations, world.seed)
        best, record = search.run(loss, kept)
        return best, {**record, "examples": {one.name: len(one.questions) for one in inputs}, "seed": world.seed}
