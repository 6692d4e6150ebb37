"""What several trainings changed of one base, as one change: their sum or a merge. It does not say where they lay.

Loops and sequences of tasks end with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genepool.weights import Change, ModelDifference, Sum, Weights


class SummedChange(Sum):
    """What several trainings changed of their base.

    Args:
        parts: what they changed; factors put side by side are the sum, to the last bit.
        made_from: the trainings' results, as they lie in the folder of the whole.
    """

    def __init__(self, parts: Sequence[Change], made_from: Sequence[str]) -> None:
        super().__init__(parts)
        self._made_from = made_from

    def identity(self) -> dict[str, Any]:
        # Where the folder lies is no part of what was made in it.
        known = super().identity().get("models", [])
        if len(known) != len(self._made_from):
            return {"models": [{**one, "name": " + ".join(self._made_from)} for one in known]}
        return {"models": [{**one, "name": name} for one, name in zip(known, self._made_from, strict=True)]}


class MergedResults(ModelDifference):
    """What a merge of several trainings' results changed of their base.

    Args:
        merged: the merge.
        base: the base.
        made_from: the results, as they lie in the folder of the whole.
    """

    def __init__(self, merged: Weights, base: Weights, made_from: Sequence[str]) -> None:
        super().__init__(merged, base)
        self._made_from = made_from

    def identity(self) -> dict[str, Any]:
        # As above.
        return {"models": [{"name": " + ".join(self._made_from), "fingerprint": self.tuned.fingerprint()}]}
