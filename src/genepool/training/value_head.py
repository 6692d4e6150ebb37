"""What an answer is worth, predicted at each of its tokens: a head that is trained beside a model and then dropped.

`trainers` reads it while the model reads a batch. Uses torch and the model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.tasks.network import Network


class LogitInputs:
    """What a model makes the logits of tokens of: the last hidden states, after whatever stands before the last layer.

    Args:
        model: the network, with its factors in place.

    Attributes:
        width: the size of a hidden state.

    Raises:
        InputError: the model has no layer that makes the logits of tokens.
    """

    def __init__(self, model: Network) -> None:
        find = getattr(model.model, "get_output_embeddings", None)
        layer: Any = find() if find is not None else None
        if layer is None or "classes" in model.can:
            raise self._none(model)
        self._model, self._layer = model, layer
        self._hidden: Any = None
        # A packed layer has another shape of weight.
        self.width = int(getattr(layer, "in_features", None) or layer.weight.shape[-1])

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, what the model makes logits of is kept."""

        def keep(_: Any, inputs: tuple[Any, ...]) -> None:
            self._hidden = inputs[0]

        hook = self._layer.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()
            self._hidden = None

    def before_targets(self, batch: AnswerBatch) -> torch.Tensor:
        """The state before every target of the batch that was read last, shape (targets, hidden), float32.

        Raises:
            InputError: the model computes its logits past the layer that it names.
        """
        return self._at(batch, batch.rows, batch.places)

    def at_ends(self, batch: AnswerBatch) -> torch.Tensor:
        """The state at the last target of every question, which has read all of it, shape (questions, hidden), float32.

        Raises:
            InputError: as `before_targets`.
        """
        import torch

        last = torch.bincount(batch.owners).cumsum(0) - 1
        return self._at(batch, batch.rows[last], batch.places[last] + 1)

    def _at(self, batch: AnswerBatch, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        if self._hidden is None:
            raise self._none(self._model)
        hidden: torch.Tensor = self._hidden
        # The layer is given the last places alone, from the first one of which something is asked.
        spared = batch.inputs["input_ids"].shape[1] - hidden.shape[1]
        return hidden[rows.to(hidden.device), (places - spared).to(hidden.device)].float()

    def _none(self, model: Network) -> InputError:
        return InputError(
            f"{type(model).kind} of this architecture has no layer behind which a value head could stand",
            where=model.title,
            fix="Name a causal language model, or another --objective",
        )


class ValueHead(LogitInputs):
    """V = -sigmoid(w . h) before each token, where h is what the model makes its logits of.

    w is zeros at the start, so that V is -0.5 everywhere; a reward lies between -1 and 0. Both as in the code of Korbak
    et al., arXiv:2302.08582.

    Args:
        model: the one that is trained, with its factors in place.

    Attributes:
        weight: w, shape (hidden,), float32.

    Raises:
        InputError: the model has no layer that makes the logits of tokens.
    """

    def __init__(self, model: Network) -> None:
        import torch

        super().__init__(model)
        self.weight = torch.nn.Parameter(torch.zeros(self.width, device=model.device))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained of it, by name."""
        return {"value_head": self.weight}

    def values(self, batch: AnswerBatch) -> torch.Tensor:
        """V before every target of the batch that was read last, shape (targets,), with gradients where they are on.

        Raises:
            InputError: the model computes its logits past the layer that it names.
        """
        return self._from(self.before_targets(batch))

    def _from(self, hidden: torch.Tensor) -> torch.Tensor:
        """V of hidden states, (targets, hidden) -> (targets,)."""
        import torch

        return -torch.sigmoid(hidden @ self.weight)


class LinearValueHead(ValueHead):
    """V = w . h + b before each token, both zeros at the start: a value of any size, as PPO's is.

    Args:
        model: as for `ValueHead`.
    """

    def __init__(self, model: Network) -> None:
        import torch

        super().__init__(model)
        self.bias = torch.nn.Parameter(torch.zeros(1, device=model.device))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {**super().parameters(), "value_head.bias": self.bias}

    def _from(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight + self.bias
