"""A search without gradients of a few numbers that say how much of each skill is used, by the loss of some answers.

CMA-ES proposes points. The losses are kept on the disk, and the search asks for the same points again, so one that was
stopped goes on to the same bits. Uses `inputs` and `kept_fit`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.composition.inputs import TaskInputs
from genepool.composition.kept_fit import KeptFit
from genepool.errors import InputError
from genepool.seeding import numpy_generator
from genepool.training import target_objective

if TYPE_CHECKING:
    import numpy as np

    from genepool.tasks.network import Network


@dataclass(frozen=True)
class LossSearch:
    """A search.

    Attributes:
        name: what the draws belong to, beside the seed.
        start: the first point, shape (numbers,).
        sigma: standard deviation of the first points around it.
        bounds: the smallest and the largest number.
        evaluations: points that are tried.
        seed: of every draw.
    """

    name: str
    start: np.ndarray
    sigma: float
    bounds: tuple[float, float]
    evaluations: int
    seed: int

    def run(self, loss: Callable[[np.ndarray], float], kept: KeptFit) -> tuple[np.ndarray, dict[str, Any]]:
        """Tries points.

        Args:
            loss: of a point.
            kept: where the losses are kept.

        Returns:
            The best point, and how it was found as plain data.

        Raises:
            InputError: no loss is finite.
        """
        import numpy as np

        search, known = self._new_search(), _known(kept)
        tried: list[tuple[float, np.ndarray]] = []
        with progress.bar("searching coefficients", self.evaluations, "evaluations") as bar:
            while len(tried) < self.evaluations:
                points = [np.asarray(point) for point in search.ask()]
                if not tried:
                    points[0] = self.start
                losses = []
                for point in points[: self.evaluations - len(tried)]:
                    at = len(tried)
                    losses.append(known[at] if at < len(known) else loss(point))
                    tried.append((losses[-1], point))
                    bar.advance()
                    if at >= len(known):
                        _keep(kept, [one for one, _ in tried])
                bar.note(f"loss {min(one for one, _ in tried):.4f}")
                if len(losses) == len(points):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        search.tell(points, [one if np.isfinite(one) else 1e30 for one in losses])
        finite = [(one, number) for number, (one, _) in enumerate(tried) if np.isfinite(one)]
        if not finite:
            raise InputError("no composition has a finite loss", where="compose", fix="Check the skills")
        best = min(finite)[1]
        return tried[best][1], {
            "objective": "likelihood",
            "evaluations": len(tried),
            "best_evaluation": best + 1,
            "loss": [one if np.isfinite(one) else None for one, _ in tried],
        }

    def _new_search(self) -> Any:
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma announces that matplotlib is missing
            import cma
        generator = numpy_generator(self.seed, self.name)
        return cma.CMAEvolutionStrategy(
            self.start,
            self.sigma,
            {
                "bounds": list(self.bounds),
                # NaN means "seed nothing"; every draw then comes from our own generator.
                "seed": np.nan,
                "randn": lambda *shape: generator.standard_normal(shape),
                "verbose": -9,
                "signals_filename": "",
                "maxiter": np.inf,
            },
        )


def answers_loss(network: Network, inputs: Sequence[TaskInputs], batch_size: int) -> float:
    """Minus the mean log-likelihood of the answers' targets: over a question's, its task's questions, and tasks.

    Args:
        network: what is asked.
        inputs: with their right answers.
        batch_size: questions computed at once.
    """
    import torch

    objective, total = target_objective("likelihood"), 0.0
    with torch.inference_mode():
        for task in inputs:
            share = 1 / (len(task.questions) * len(inputs))
            for batch, _ in task.batches(network, range(len(task.questions)), batch_size):
                total += float(batch.means(objective.losses(network, batch)).sum()) * share
    return total


def _keep(kept: KeptFit, losses: list[float]) -> None:
    import torch

    kept.put({"losses": torch.tensor(losses, dtype=torch.float64)}, {})


def _known(kept: KeptFit) -> list[float]:
    """The losses of the evaluations before the search was stopped."""
    found = kept.read()
    if found is None or "losses" not in found[0]:
        return []
    progress.message(f"going on after evaluation {len(found[0]['losses'])}")
    return [float(loss) for loss in found[0]["losses"]]
