"""Steps that teach pairs to two sets of factors at once, at two learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow
from genepool.training.objectives.fast_slow import FastSlow
from genepool.training.states import OWN
from genepool.training.trained import LoraFactors
from genepool.training.trainers.pairs import PairTrainer, both_sides, parts_of, summed_likelihoods
from genepool.training.trainers.trainer import TrainerInputs

if TYPE_CHECKING:
    import torch

    from genepool.training.objectives import PairLikelihoods

_SLOW = "slow"


class FastSlowTrainer(PairTrainer):
    """The mean over the pairs of a step of both sets' losses, added up.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: all tensors are trained, so there are no factors that could stand twice.
    """

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, FastSlow)
        self._chasing, trained = inputs.objective, inputs.reference.trained
        if not isinstance(trained, LoraFactors):
            raise InputError(
                "fast_slow trains two sets of factors, and --full has none",
                where="--objective",
                fix="Train with --lora",
            )
        self._factors = trained
        self._slow = trained.second(_SLOW)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {f"{OWN}{name}": parameter for name, parameter in self._slow.items()}

    def rates(self) -> dict[str, float]:
        return dict.fromkeys(self.parameters(), self._chasing.slow)

    def gradients(self, step: int) -> tuple[float, list[ExampleRow]]:
        import torch

        lessons = self.lessons.at(step, self.recipe.batch)
        parts = list(parts_of(lessons, self.size))
        leads: bool | None = None
        rows: list[ExampleRow] = []
        total = 0.0
        with self.stepping(step):
            if len(parts) > 1:
                # Who leads is said by all pairs of the step, before any part has gradients.
                with torch.no_grad():
                    leads = self._leads([self._three(part) for part in parts])
            for part in parts:
                three = self._three(part)
                fast, slow, reference = three
                ahead = self._leads([three]) if leads is None else leads
                losses, others = self._chasing.both(fast, slow, reference, leads=ahead)
                share = (losses.sum() + others.sum()) / len(lessons)
                share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
                rows += self.rows(part, losses, fast, reference)
        return total, rows

    def _three(self, part: Sequence[TrainingExample]) -> tuple[PairLikelihoods, PairLikelihoods, PairLikelihoods]:
        """Of some pairs with the fast factors, with the slow ones and without any."""
        encoded = self.encoded(both_sides(part), 2 * self.size)
        reference = summed_likelihoods(self.reference, encoded, len(part))
        with self._factors.using(_SLOW):
            slow = summed_likelihoods(self.model, encoded, len(part))
        return summed_likelihoods(self.model, encoded, len(part)), slow, reference

    def _leads(self, threes: Sequence[tuple[PairLikelihoods, PairLikelihoods, PairLikelihoods]]) -> bool:
        """Whether the fast factors have the lower loss, or the same."""
        fast = sum(float(self._chasing.losses(one, reference).detach().sum()) for one, _, reference in threes)
        slow = sum(float(self._chasing.losses(one, reference).detach().sum()) for _, one, reference in threes)
        return fast <= slow
