"""Steps that learn from what the model itself writes, where a value head says what to expect at each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.training.advantages import whitened
from genepool.training.rollout_objective import RolloutLikelihoods, TokenValues, ValuedRolloutObjective
from genepool.training.samples import sample_batches
from genepool.training.states import OWN
from genepool.training.trainers.rollouts import Drawn, RolloutTrainer
from genepool.training.trainers.trainer import TrainerInputs
from genepool.training.value_head import LinearValueHead

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch


@dataclass(frozen=True)
class _TokensDrawn:
    """What is known at drawing of every token of one sample; each tensor has the shape (tokens,)."""

    logs: torch.Tensor
    values: torch.Tensor
    returns: torch.Tensor
    advantages: torch.Tensor


class ValuedRolloutTrainer(RolloutTrainer):
    """As `RolloutTrainer`, with an advantage for every token. Dropout layers are off, as in the code of ReFT.

    Args:
        inputs: the model, what it learns from, and what a step minimises.

    Raises:
        InputError: the model cannot write, has no place for a value head, or an answer cannot be judged.
    """

    dropout = False

    def __init__(self, inputs: TrainerInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.objective, ValuedRolloutObjective)
        self._valued = inputs.objective
        self._head = LinearValueHead(self.model)
        self._tokens: dict[int, _TokensDrawn] = {}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {f"{OWN}{name}": one for name, one in self._head.parameters().items()}

    def _draw(self, step: int) -> Drawn:
        drawn = super()._draw(step)
        self._tokens = self._tokens_of(drawn)
        return drawn

    def _tokens_of(self, drawn: Drawn) -> dict[int, _TokensDrawn]:
        """What is known of the tokens of each sample whose reward did not fail."""
        import torch

        known = [place for place in range(len(drawn.samples)) if drawn.rewards[place].isfinite()]
        logs: dict[int, torch.Tensor] = {}
        values: dict[int, torch.Tensor] = {}
        advantages: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for batch in sample_batches(self.model, [drawn.samples[place] for place in known], self.size):
                reference = self._logs(self.reference, batch)[0]
                with self._head.listening():
                    policy, _ = self._logs(self.model, batch)
                    expected = self._head.values(batch)
                parts = zip(*(batch.parts(one) for one in (policy, reference, expected)), strict=True)
                for number, (log, began, value) in zip(batch.numbers, parts, strict=True):
                    place = known[number]
                    logs[place], values[place] = log, value
                    reward = float(drawn.rewards[place])
                    advantages[place] = self._valued.token_advantages(reward, log, began, value)
        white = dict(zip(known, whitened([advantages[place] for place in known]), strict=True)) if known else {}
        return {
            place: _TokensDrawn(logs[place], values[place], advantages[place] + values[place], white[place])
            for place in known
        }

    def _likelihoods(self, batch: AnswerBatch, places: Sequence[int], drawn: Drawn) -> RolloutLikelihoods:
        import torch

        def joined(name: str) -> torch.Tensor:
            return torch.cat([getattr(self._tokens[place], name) for place in places])

        reference = self._logs(self.reference, batch)[0]
        with self._head.listening():
            policy, _ = self._logs(self.model, batch)
            values = TokenValues(self._head.values(batch), joined("values"), joined("returns"))
        return RolloutLikelihoods(policy, joined("logs"), reference, joined("advantages"), values=values)

    def _is_kept(self, drawn: Drawn, place: int) -> bool:
        return place in self._tokens
