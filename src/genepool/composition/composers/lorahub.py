"""LoraHub: how much of each adapter, by a search without gradients over a few labelled examples."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool import progress
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.composer import Composer, ComposerOptions, register
from genepool.composition.composition import Composition, MergedComposition, Saved
from genepool.composition.gradient import MergedNetwork
from genepool.composition.inputs import TaskInputs, labelled_inputs
from genepool.composition.kept_fit import KeptFit
from genepool.composition.residence import plan_residence
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.threads import torch_threads
from genepool.training import find_objective
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
        with torch_threads(sensible_threads(world.skills.base)):
            weights, record = _CoefficientSearch(self.options, world, self.name).run()
        return MergedComposition(self, world.skills, record, weights)

    def restore(self, saved: Saved) -> Composition:
        return MergedComposition.restored(self, saved)


class _CoefficientSearch:
    """One search."""

    def __init__(self, options: LoraHubOptions, world: World, name: str) -> None:
        self._options, self._world = options, world
        plan = plan_residence(world.skills, dtype=world.dtype)
        progress.message(plan.text())
        held = [number for number, skill in enumerate(world.skills.names) if skill in plan.skills]
        vectors = world.skills.vectors(held)
        self._layout = CoefficientLayout(len(world.skills.skills), vectors.names)
        self._inputs = labelled_inputs(world)
        self._merged = MergedNetwork(world.network, vectors, self._layout)
        named = {"composer": name, "options": options.model_dump(mode="json")}
        self._kept = KeptFit(world.work, {**world.identity(), **named, "tasks": [one.digest() for one in self._inputs]})

    def run(self) -> tuple[Any, dict[str, Any]]:
        """The best coefficients, shape (skills, tensors, 1), and how they were found."""
        import numpy as np
        import torch

        search = self._new_search()
        known = self._known()
        tried: list[tuple[float, np.ndarray]] = []
        with progress.bar("searching coefficients", self._options.evaluations, "evaluations") as bar:
            while len(tried) < self._options.evaluations:
                points = [np.asarray(point) for point in search.ask()]
                if not tried:
                    points[0] = np.zeros(self._layout.skills)
                losses = []
                for point in points[: self._options.evaluations - len(tried)]:
                    at = len(tried)
                    loss = known[at] if at < len(known) else self._loss(point)
                    losses.append(loss)
                    tried.append((loss, point))
                    bar.advance()
                    if at >= len(known):
                        self._keep([one for one, _ in tried])
                bar.note(f"loss {min(one for one, _ in tried):.4f}")
                if len(losses) == len(points):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        search.tell(points, [loss if np.isfinite(loss) else 1e30 for loss in losses])
        finite = [(loss, number) for number, (loss, _) in enumerate(tried) if np.isfinite(loss)]
        if not finite:
            raise InputError("no composition has a finite loss", where="compose", fix="Check the skills")
        loss, best = min(finite)
        self._world.network.assign(self._world.skills.base)
        weights = torch.tensor(tried[best][1], dtype=torch.float32)
        record = {
            "objective": "likelihood",
            "evaluations": len(tried),
            "best_evaluation": best + 1,
            "loss": [one if np.isfinite(one) else None for one, _ in tried],
            "coefficients": dict(zip(self._world.skills.names, weights.tolist(), strict=True)),
            "examples": {one.name: len(one.questions) for one in self._inputs},
            "seed": self._world.seed,
        }
        return weights[:, None, None].expand(self._layout.shape), record

    def _loss(self, point: np.ndarray) -> float:
        """Minus the mean log-likelihood of the answers, and the penalty."""
        import torch

        weights = torch.tensor(point, dtype=torch.float32)
        self._merged.put(weights[:, None, None].expand(self._layout.shape))
        total = sum(self._task_loss(task) for task in self._inputs) / len(self._inputs)
        return float(total + self._options.penalty * weights.abs().mean())

    def _task_loss(self, task: TaskInputs) -> float:
        import torch

        objective, network = find_objective("likelihood"), self._world.network
        total = 0.0
        with torch.inference_mode():
            for batch, _ in task.batches(network, range(len(task.questions)), self._options.batch):
                total += float(batch.means(objective.losses(network, batch)).sum())
        return total / len(task.questions)

    def _new_search(self) -> Any:
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma announces that matplotlib is missing
            import cma
        generator = numpy_generator(self._world.seed, "lorahub")
        return cma.CMAEvolutionStrategy(
            np.zeros(self._layout.skills),
            self._options.sigma,
            {
                "bounds": [-_LIMIT, _LIMIT],
                # NaN means "seed nothing"; every draw then comes from our own generator.
                "seed": np.nan,
                "randn": lambda *shape: generator.standard_normal(shape),
                "verbose": -9,
                "signals_filename": "",
                "maxiter": np.inf,
            },
        )

    def _keep(self, losses: list[float]) -> None:
        import torch

        self._kept.put({"losses": torch.tensor(losses, dtype=torch.float64)}, {})

    def _known(self) -> list[float]:
        """The losses of the evaluations before the search was stopped: it asks for the same points again."""
        found = self._kept.read()
        if found is None or "losses" not in found[0]:
            return []
        progress.message(f"going on after evaluation {len(found[0]['losses'])}")
        return [float(loss) for loss in found[0]["losses"]]
