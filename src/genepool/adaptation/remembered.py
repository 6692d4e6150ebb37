"""The last windows of a series whose every step has come, with what followed them: what is fitted to.

Also what a frozen forecaster leaves of them to be explained. Shared by adapters that fit anew instead of following a
gradient. Uses the stream's model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from genepool.adaptation.adapter import Answered, SourceExamples
from genepool.adaptation.stream_model import Inputs, StreamModel
from genepool.adaptation.system_nets import systems_of
from genepool.tasks.models.forecaster import SERIES, Forecaster

_PAST, _FUTURE = "remembered past", "remembered future"


class Remembered:
    """Windows and what followed, the oldest first.

    Args:
        count: how many are kept.
        model: whose windows they are.

    Attributes:
        past: shape (n, lookback, variables), float32, on the processor.
        truth: shape (n, horizon, variables).
    """

    def __init__(self, count: int, model: StreamModel) -> None:
        assert isinstance(model.asked, Forecaster)
        self._count = count
        self._shapes = [(steps, model.variables) for steps in (model.asked.lookback, model.asked.horizon)]
        self.past, self.truth = torch.zeros(0), torch.zeros(0)

    def __len__(self) -> int:
        return len(self.past)

    def take(self, late: Sequence[Answered]) -> bool:
        """Keeps the windows of whole batches; whether there were any."""
        whole = [one for one in late if one.whole]
        for one in whole:
            past, truth = one.batch.inputs.whole(SERIES).float().cpu(), one.targets
            if len(self):
                past, truth = torch.cat([self.past, past]), torch.cat([self.truth, truth])
            self.past, self.truth = past[-self._count :], truth[-self._count :]
        return bool(whole)

    def inputs(self, model: StreamModel) -> Inputs:
        """The windows as a model reads them."""
        past = self.past.to(model.device, model.dtype)
        return Inputs(((tuple(range(len(self))), {SERIES: past}),), len(self))

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is part of an adapter's state; nothing where nothing is kept."""
        return {_PAST: self.past, _FUTURE: self.truth} if len(self) else {}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> Collection[str]:
        """Puts back what `tensors` gave; the names that were its own.

        Raises:
            ValueError: the tensors are no windows.
        """
        self.past, self.truth = torch.zeros(0), torch.zeros(0)
        if _PAST in tensors:
            past, truth = tensors[_PAST], tensors[_FUTURE]
            for name, one, shape in zip((_PAST, _FUTURE), (past, truth), self._shapes, strict=True):
                if one.dim() != 3 or len(one) != len(past) or tuple(one.shape[1:]) != shape:
                    raise ValueError(f"{name} has the shape {list(one.shape)}, expected windows")
            self.past, self.truth = past.clone(), truth.clone()
        return (_PAST, _FUTURE)


def changes(past: torch.Tensor) -> torch.Tensor:
    """Windows less their last value, flat: (n, lookback, variables) becomes (n, lookback * variables), float32."""
    past = past.float()
    return (past - past[:, -1:]).flatten(1)


def what_is_left(
    model: StreamModel, source: SourceExamples, parts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a frozen forecaster leaves of its source to be explained, with the system of each window.

    Args:
        model: the forecaster.
        source: windows and what followed.
        parts: into which a source of one domain is cut.

    Returns:
        Windows as `changes` gives them, errors of shape (n, horizon * variables), and numbers of systems, shape (n,).

    Raises:
        InputError: there are fewer windows than parts.
    """
    past = torch.cat([one.whole(SERIES).float() for one in source.batches])
    truth = torch.cat(source.targets).to(past.device)
    with torch.no_grad():
        left = truth - torch.cat([model.forecast(one) for one in source.batches])
    names = [domain for part in source.domains for domain in part]
    return changes(past), left.flatten(1), torch.tensor(systems_of(names, parts, model.title))


def left_of(model: StreamModel, past: Remembered) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of the windows that are remembered, without systems."""
    with torch.no_grad():
        left = past.truth.to(model.device) - model.forecast(past.inputs(model))
    return changes(past.past.to(model.device)), left.flatten(1)
