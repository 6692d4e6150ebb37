"""Whether a population is still one: how differently its candidates answer, and a warning when they no longer do."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genepool.evolution.candidates import Verdict

if TYPE_CHECKING:
    import numpy as np

# Generations of few children are looked at together with those before them.
_WINDOW, _FEWEST = 20, 8
# Below this share of what it was at its largest, and of all examples, a population has collapsed.
_FALLEN, _ALIKE = 0.1, 0.01


class Diversity:
    """Mean disagreement of the latest candidates: the mean difference of the scores of two, over examples.

    Attributes:
        now: after the latest generation, from 0 to 1; None while there are too few candidates.
    """

    def __init__(self) -> None:
        self.now: float | None = None
        self._largest = 0.0
        self._warned = False
        self._latest: deque[np.ndarray] = deque(maxlen=_WINDOW)

    def warning(self, generation: int, verdicts: Sequence[Verdict]) -> str:
        """Takes a generation; the sentence that says that the population has collapsed, once, else nothing."""
        rows = [verdict.example_scores() for verdict in verdicts if verdict.scores]
        if len(verdicts) >= _FEWEST:
            self._latest.clear()
        self._latest.extend(rows[-_WINDOW:])
        self.now = disagreement(list(self._latest)) if len(self._latest) >= _FEWEST else None
        if self.now is None:
            return ""
        self._largest = max(self._largest, self.now)
        if self._warned or self.now > min(_ALIKE, _FALLEN * self._largest):
            return ""
        self._warned = True
        return (
            f"the population has collapsed: since generation {generation} its candidates answer "
            f"{1 - self.now:.1%} of the examples alike; more of the same will find little"
        )


def disagreement(rows: Sequence[np.ndarray]) -> float:
    """Mean over pairs and examples of the difference between two candidates' scores; shape (examples,) each."""
    import numpy as np

    ordered = np.sort(np.array(rows), axis=0)
    n = len(ordered)
    # Sorted, the sum over pairs of differences is a weighted sum: no pair is formed.
    weights = 2 * np.arange(n) - n + 1
    return float((weights @ ordered).mean() / (n * (n - 1) / 2)) if n > 1 else 0.0
