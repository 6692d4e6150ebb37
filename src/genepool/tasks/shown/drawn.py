"""Shown examples that are drawn: the default, and the control of every other way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.tasks.example import Example
from genepool.tasks.shown import ShownChoice, shown_choice

if TYPE_CHECKING:
    import numpy as np


@shown_choice
class DrawnExamples(ShownChoice):
    """Examples drawn without repetition, each as likely as any other."""

    name = "drawn"
    source = "Brown et al. 2020, arXiv:2005.14165"
    when = "nothing is known of which examples help"

    def chosen(self, example: Example, count: int, drawn: np.random.Generator) -> list[Example]:
        """See `ShownChoice.chosen`."""
        others = self.others(example)
        return [others[int(at)] for at in drawn.choice(len(others), size=count, replace=False)]
