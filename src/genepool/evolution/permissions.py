"""What whoever runs a study allows. A study file may come from a stranger, so nothing it says can add to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Permissions:
    """What the command line allows by flags of its own.

    Attributes:
        pickles: PyTorch's .bin and .pt files may be opened, tensors only (`weights_only`).
        tasks: files of tasks that may run code, see `genepool.tasks.load_tasks`.
    """

    pickles: bool = False
    tasks: tuple[str | Path, ...] = ()


NOTHING = Permissions()
