"""The metrics of a training as other tools read them.

A line of JSON a step, and TensorBoard's events where it is installed. Both are copies: what counts is the journal, from
which a resumed run writes them anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from genepool import staging
from genepool.training.journal import Journal, StepRow, Validation

FILE, EVENTS = "metrics.jsonl", "events"


class MetricsLog:
    """Open while a training runs.

    Args:
        run: the folder of the training.
        journal: its record.
        start: the step it goes on from; what the record has beyond is taken, and written, again.
    """

    def __init__(self, run: Path, journal: Journal, start: int) -> None:
        self._journal, means = journal, journal.means()
        validations = {one.step: one for one in journal.validations() if one.step <= start}
        lines = [_line(validations[0])] if 0 in validations else []
        for row in journal.steps():
            if row.step <= start:
                lines.append(_line(row, means.get(row.step)))
                lines += [_line(validations[row.step])] if row.step in validations else []
        staging.write_text(run / FILE, "".join(lines))
        self._file = (run / FILE).open("a", encoding="utf-8")
        self._events = _writer(run / EVENTS, start)

    def step(self, row: StepRow) -> None:
        """Adds a step, which the journal holds already."""
        means = self._journal.means(row.step).get(row.step, {})
        scalars = {"train/loss": row.loss, "train/gradient_norm": row.norm, "train/learning_rate": row.rate}
        self._add(row, scalars | {f"train/{name}": value for name, value in means.items()}, means)

    def validation(self, found: Validation) -> None:
        """Adds a validation."""
        self._add(found, {"valid/loss": found.loss, "valid/exact": found.score})

    def _add(self, row: StepRow | Validation, scalars: dict[str, float], means: dict[str, float] | None = None) -> None:
        self._file.write(_line(row, means))
        self._file.flush()
        if self._events is not None:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, row.step)

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(row: StepRow | Validation, means: dict[str, float] | None = None) -> str:
    if isinstance(row, Validation):
        told: dict[str, Any] = {"step": row.step, "valid_loss": row.loss, "valid_exact": row.score}
    else:
        told = {"step": row.step, "loss": row.loss, "gradient_norm": row.norm, "learning_rate": row.rate}
    told |= means or {}
    return json.dumps(told, allow_nan=False) + "\n"


def _writer(folder: Path, start: int) -> Any:
    """TensorBoard's writer; None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
