"""What a stream asks of a model: classes of examples, or what follows in a series.

A task says how what is issued is written down and scored, when labels come, and what the watch looks at. `Adaptation`
drives it. Uses the reader, the stream's model and the watch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from genepool.adaptation.adapter import Asked
from genepool.adaptation.orders import PlannedBatch
from genepool.adaptation.series import score_of, squared_errors, written
from genepool.adaptation.stream_model import StreamModel, entropy_of
from genepool.adaptation.watch import Alarms, SeriesWatch, Watch

if TYPE_CHECKING:
    from genepool.adaptation.reading import StreamReader
    from genepool.adaptation.stream import Stream
    from genepool.adaptation.stream_lines import StreamExample


class StreamTask(ABC):
    """What is asked along a stream.

    Args:
        stream: the stream.
        model: whose labels are known.
        reader: of the stream's examples.

    Attributes:
        asked: what the model is asked for.
        block: how many neighbouring examples are as good as one, since they share what is scored.
    """

    asked: Asked
    block: int = 1

    def __init__(self, stream: Stream, model: StreamModel, reader: StreamReader) -> None:
        self.stream, self.model, self.reader = stream, model, reader

    @abstractmethod
    def watch(self) -> Alarms:
        """A watch that has seen nothing."""

    @abstractmethod
    def answers(self, predictions: torch.Tensor) -> tuple[str | None, ...]:
        """What was issued for each example, as text; None where a prediction is not a number."""

    @abstractmethod
    def entropies(self, predictions: torch.Tensor) -> tuple[float | None, ...]:
        """Of each prediction, in nats; None where it is not a number."""

    @abstractmethod
    def scores(self, predictions: torch.Tensor, examples: Sequence[StreamExample]) -> list[float]:
        """Of examples with labels, from 0 to 1."""

    @abstractmethod
    def late(self, batches: Sequence[PlannedBatch], number: int, delay: int | None) -> list[tuple[PlannedBatch, int]]:
        """The batches whose labels come after a batch.

        Args:
            batches: of the run.
            number: of the batch that was predicted last.
            delay: as the user says; None for never.

        Returns:
            Each with the number of the last step of time that is known by then; -1 where there is no time.
        """

    @abstractmethod
    def targets(self, examples: Sequence[StreamExample], known: int) -> torch.Tensor:
        """The labels of some examples as an adapter is told them, by a step of time; see `Answered`."""


class ClassTask(StreamTask):
    """Which class an example is of. A label comes so many batches later as the user says."""

    asked = "classes"

    def watch(self) -> Alarms:
        return Watch(len(self.model.labels))

    def answers(self, predictions: torch.Tensor) -> tuple[str | None, ...]:
        best, labels = predictions.argmax(-1).tolist(), self.model.labels
        return tuple(labels[at] if good else None for at, good in zip(best, _finite(predictions), strict=True))

    def entropies(self, predictions: torch.Tensor) -> tuple[float | None, ...]:
        found = entropy_of(predictions).tolist()
        return tuple(one if good else None for one, good in zip(found, _finite(predictions), strict=True))

    def scores(self, predictions: torch.Tensor, examples: Sequence[StreamExample]) -> list[float]:
        found: list[float] = (predictions.argmax(-1).cpu() == self.reader.targets(examples)).float().tolist()
        return found

    def late(self, batches: Sequence[PlannedBatch], number: int, delay: int | None) -> list[tuple[PlannedBatch, int]]:
        return [] if delay is None or number < delay else [(batches[number - delay], -1)]

    def targets(self, examples: Sequence[StreamExample], known: int) -> torch.Tensor:
        return self.reader.targets(examples)


class SeriesTask(StreamTask):
    """What follows each window of a series. The truth comes as time passes, step by step.

    After a batch everything is known up to the last step that its windows read. So batches of before become known
    whole, and of the batch itself the first steps.
    """

    asked = "series"

    def __init__(self, stream: Stream, model: StreamModel, reader: StreamReader) -> None:
        super().__init__(stream, model, reader)
        first, second = (stream.examples[min(at, len(stream.examples) - 1)].end for at in (0, 1))
        # Windows that overlap in what is forecast are one piece of evidence, not many.
        self.block = -(-stream.horizon // max(1, second - first))

    def watch(self) -> Alarms:
        return SeriesWatch()

    def answers(self, predictions: torch.Tensor) -> tuple[str | None, ...]:
        rows = predictions.flatten(1).tolist()
        return tuple(written(row) if good else None for row, good in zip(rows, _finite(predictions), strict=True))

    def entropies(self, predictions: torch.Tensor) -> tuple[float | None, ...]:
        """A forecast of one number a step has no spread: 0."""
        return tuple(0.0 if good else None for good in _finite(predictions))

    def scores(self, predictions: torch.Tensor, examples: Sequence[StreamExample]) -> list[float]:
        errors = squared_errors(predictions, self.reader.targets(examples)).tolist()
        # An error that is not a number is no better than an infinite one.
        return [score_of(one) if one == one else 0.0 for one in errors]

    def late(self, batches: Sequence[PlannedBatch], number: int, delay: int | None) -> list[tuple[PlannedBatch, int]]:
        known = self._known(batches[number])
        before = self._known(batches[number - 1]) if number else -1
        whole = [(one, known) for one in batches[:number] if before < self._complete(one) <= known]
        return [*whole, (batches[number], known)]

    def targets(self, examples: Sequence[StreamExample], known: int) -> torch.Tensor:
        found = self.reader.targets(examples)
        for row, one in zip(found, examples, strict=True):
            row[max(0, known - one.end) :] = float("nan")
        return found

    def _known(self, plan: PlannedBatch) -> int:
        """The last step that is read for a batch."""
        return self.stream.examples[plan.places[-1]].end

    def _complete(self, plan: PlannedBatch) -> int:
        """The step with which everything that a batch forecasts is known."""
        return self._known(plan) + self.stream.horizon


def task_of(stream: Stream, model: StreamModel, reader: StreamReader) -> StreamTask:
    """The task of a stream."""
    return (SeriesTask if stream.horizon else ClassTask)(stream, model, reader)


def _finite(predictions: torch.Tensor) -> list[bool]:
    found: list[bool] = predictions.flatten(1).isfinite().all(-1).tolist()
    return found
