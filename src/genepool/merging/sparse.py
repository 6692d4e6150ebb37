"""Task vectors made sparse, then added up: the shape that TIES, DARE, DELLA and Breadcrumbs share.

`SparseSum` drops entries at random (`prepared`), keeps magnitudes within limits (`kept_ranks`), rescales (`factors`),
and adds up, with or without an election of signs; a method says what it does of these. `TrimSurvey` gathers what that
needs to know first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genepool import kernels
from genepool.kernels.buffers import sliceable
from genepool.kernels.kept_marks import KeptMarks
from genepool.kernels.selection import keep_count
from genepool.kernels.stored import no_limits
from genepool.merging.group import TensorGroup
from genepool.merging.method import Method
from genepool.merging.survey import Chain, Magnitudes, Sums, Survey
from genepool.merging.tie_places import Limits, TiePlaces

if TYPE_CHECKING:
    import numpy as np

    from genepool.kernels.stored import StoredVectors

# Entries of prepared task vectors that a survey keeps from pass to pass: 256 MB.
_READY_ENTRIES = 1 << 26


def largest(density: float, numel: int) -> tuple[int, int] | None:
    """Ranks of the share `density` of entries, the largest, as `SparseSum.kept_ranks` gives them."""
    return (1, keep_count(density, numel)) if density < 1 else None


class TrimSurvey(Chain):
    """What a sparse sum must know of whole vectors, pass by pass.

    Limits of every model (two passes), which ties with them stay if exactly that many are to (one, where there are too
    many), L1 norms if they are needed (one), the majority sign if it is (one).
    """

    def __init__(
        self, method: SparseSum, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int
    ) -> None:
        self._ranks = [method.kept_ranks(values, numel) for values in per_model]
        # The largest magnitude of all needs no looking for: nothing is above it.
        asked = [[] if kept is None else [kept[1], *([kept[0]] if kept[0] > 1 else [])] for kept in self._ranks]
        self._method = method
        self._ready: dict[str, Any] = {}
        self._ready_room = _READY_ENTRIES
        self._limits = Magnitudes(asked, lambda group: sliceable(self.prepared(group)), numel, stored=method.stored)
        self._ties = TiePlaces(self._limits, self.prepared, method.stored) if method.exact else None
        # Marks are of one tensor: those of a whole model would grow with it.
        remembers = method.remembers_drops and shared.get("rescale") == "l1" and method.scope(shared) == "tensor"
        self._marks = KeptMarks() if remembers else None
        self._norms = Sums(
            lambda group: method.l1_norms(group, self), stored=lambda group: method.stored_l1_norms(group, self)
        )
        self._votes = Sums(
            lambda group: method.votes(group, self), False, lambda group: method.stored_votes(group, self)
        )
        stages: list[tuple[Survey, bool]] = [
            (self._limits, any(kept is not None for kept in self._ranks)),
            *([(self._ties, any(kept is not None for kept in self._ranks))] if self._ties is not None else []),
            (self._norms, shared.get("rescale") == "l1"),
            (self._votes, shared.get("zero_sign") == "majority"),
        ]
        super().__init__([stage for stage, needed in stages if needed])

    @property
    def thresholds(self) -> list[float]:
        """The smallest kept magnitude of each model: 0 where all is kept, infinity where nothing is."""
        return [found[0] if found else 0.0 for found in self._limits.found]

    @property
    def ceilings(self) -> list[float]:
        """The largest kept magnitude of each model; infinity where outliers stay."""
        return [found[1] if len(found) > 1 else math.inf for found in self._limits.found]

    def prepared(self, group: TensorGroup, last: bool = False) -> Any:
        """The task vectors of a block as the method prepares them.

        A search merges small models thousands of times: of what lies in memory anyway they are kept from pass to pass.

        Args:
            group: the block.
            last: they will not be asked for again.
        """
        ready = self._ready.pop(group.name, None) if last else self._ready.get(group.name)
        if ready is not None:
            return ready
        found = self._method.prepared(group)
        if group.held is not None and not last and group.held.numel() <= self._ready_room:
            self._ready_room -= group.held.numel()
            self._ready[group.name] = found
        return found

    def remember(self, group: TensorGroup, prepared: Any) -> None:
        """Remembers which entries of a block were dropped at random, until it is merged."""
        if self._marks is not None and group.read_deltas is not None:
            self._marks.remember(group.start, prepared)

    def recalled(self, group: TensorGroup) -> Any:
        """The task vectors without the entries that were dropped; None where that is not remembered."""
        if self._marks is None or group.read_deltas is None:
            return None
        deltas: Any = group.deltas
        return deltas if self._marks.recall(group.start, deltas) else None

    def recalled_stored(self, group: TensorGroup) -> StoredVectors | None:
        """The same as they are stored."""
        if self._marks is None or group.stored is None:
            return None
        found = self._marks.find(group.start, group.stop, group.rows[1])
        return None if found is None else group.stored.marked(*found)

    def breaks(self, group: TensorGroup) -> list[int]:
        """The rows of a block from which on other entries that tie with a limit stay."""
        return [] if self._ties is None else self._ties.breaks(group)

    def limits(self, group: TensorGroup) -> Limits | None:
        """The smallest and the largest kept magnitude of each model; None where entries that tie with them do not stay.

        Args:
            group: a block without breaks.
        """
        if self._ties is None:
            return self.thresholds, self.ceilings
        return self._ties.limited(group, self.thresholds, self.ceilings)

    def without_ties(self, group: TensorGroup, vectors: Any) -> Any:
        """The vectors without the entries that tie with a limit and are one too many; written into."""
        return vectors if self._ties is None else self._ties.drop(group, vectors)

    @property
    def norms(self) -> np.ndarray[Any, Any]:
        """L1 norms before and after, `(2, models)`, when they were asked for."""
        return self._norms.array

    @property
    def majority_sign(self) -> float:
        """The sign of the sum of all elected signs; +1 when they balance or were not counted."""
        return 1.0 if float(self._votes.array) >= 0 else -1.0


class SparseSum(Method):
    """`th0 + lambda * sum_i w_i sparse(t_i)`, with an election of signs when the class says so.

    Reads the parameters `weight`, `lambda` and `normalize`, and `rescale`, `scope` and `zero_sign` if there are such.

    Class attributes:
        elects: elect a sign per entry and add up what agrees; otherwise add up all.
        remembers_drops: `prepared` sets entries to zero and changes no other unless the density rescales them, and
            takes so long that what it dropped is remembered from the pass for norms to the merge.
        exact: of entries that tie with a limit, keep as many as the share says, by place; otherwise all of them.
        rescales_before_trim: an L1 norm to be given back is that which dropping took, not trimming.
    """

    inputs = "deltas"
    base = "required"
    on_arrays = True
    elects: ClassVar[bool] = False
    remembers_drops: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    rescales_before_trim: ClassVar[bool] = False

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        survey = TrimSurvey(self, shared, per_model, numel)
        return survey if survey.passes else None

    def prepared(self, group: TensorGroup) -> Any:
        """The task vectors before they are trimmed, `(models, rows, columns)`; methods drop entries here."""
        return group.deltas

    def stored(self, group: TensorGroup) -> StoredVectors | None:
        """The same as they are stored; None where they are not, or what is dropped is not said by draws."""
        return group.stored

    def kept_ranks(self, values: Mapping[str, Any], numel: int) -> tuple[int, int] | None:
        """Which entries of a task vector the trim keeps, counted from the largest magnitude, first and last.

        Args:
            values: the model's own parameters.
            numel: number of entries that are trimmed together.

        Returns:
            (1, k) for the k largest, (1, 0) for none; None when nothing is trimmed.
        """
        return None

    def factors(self, group: TensorGroup, survey: TrimSurvey | None) -> list[float]:
        """What each sparse task vector is multiplied by before its weight."""
        if survey is None or group.shared.get("rescale") != "l1":
            return [1.0] * len(group.per_model)
        norms = survey.norms.T.tolist()
        # A norm that vanishes cannot be given back.
        return [before / after if min(before, after) >= 1e-7 else 1.0 for before, after in norms]

    def l1_norms(self, group: TensorGroup, survey: TrimSurvey) -> np.ndarray[Any, Any]:
        """L1 norms of a block of every task vector as it is and made sparse, `(2, models)` float64."""
        import numpy as np

        before = kernels.l1_norms(group.deltas)
        prepared = survey.prepared(group)
        survey.remember(group, prepared)
        if self.rescales_before_trim:
            return np.stack([before, kernels.l1_norms(prepared)])
        left = survey.without_ties(group, prepared)
        after = kernels.l1_norms(left, thresholds=survey.thresholds, ceilings=survey.ceilings)
        return np.stack([before, after])

    def stored_l1_norms(self, group: TensorGroup, survey: TrimSurvey) -> np.ndarray[Any, Any] | None:
        """The same from the bits of files; None where they do not do."""
        stored = self.stored(group)
        if self.rescales_before_trim:
            limits: Limits | None = no_limits(len(group.per_model))
        else:
            limits = None if survey.breaks(group) else survey.limits(group)
        return None if stored is None or limits is None else stored.l1_norms(*limits)

    def votes(self, group: TensorGroup, survey: TrimSurvey) -> np.ndarray[Any, Any]:
        """The sum of the elected signs over a block."""
        import numpy as np

        factors = [f * w for f, w in zip(self.factors(group, survey), group.column("weight"), strict=True)]
        balance = kernels.balance_of_votes(
            self._limited(group, survey, last=False), factors, thresholds=survey.thresholds, ceilings=survey.ceilings
        )
        return np.array(balance, np.float64)

    def stored_votes(self, group: TensorGroup, survey: TrimSurvey) -> np.ndarray[Any, Any] | None:
        """The same from the bits of files; None where they do not do."""
        import numpy as np

        stored = self.stored(group)
        limits = None if survey.breaks(group) else survey.limits(group)
        if stored is None or limits is None:
            return None
        factors = [f * w for f, w in zip(self.factors(group, survey), group.column("weight"), strict=True)]
        return np.array(stored.balance_of_votes(factors, *limits), np.float64)

    def merge(self, group: TensorGroup, survey: TrimSurvey | None) -> Any:
        merged = self._elected(group, survey)[0] if self.elects else self._added(group, survey)
        return kernels.add_scaled(group.base, merged, group.shared["lambda"])

    def breaks(self, group: TensorGroup, survey: TrimSurvey | None) -> list[int]:
        return survey.breaks(group) if survey else []

    def merge_stored(self, group: TensorGroup, survey: TrimSurvey | None, out: np.ndarray[Any, Any]) -> bool:
        limits = survey.limits(group) if survey else no_limits(len(group.per_model))
        if limits is None:
            return False
        stored = survey.recalled_stored(group) if survey else None
        stored = self.stored(group) if stored is None else stored
        if stored is None:
            return False
        stored.merge(
            group.column("weight"),
            out,
            elects=self.elects,
            scales=self.factors(group, survey),
            low=limits[0],
            high=limits[1],
            zero_sign=self._zero_sign(group, survey),
            normalize=group.shared["normalize"],
            scale=group.shared["lambda"],
        )
        return True

    def _zero_sign(self, group: TensorGroup, survey: TrimSurvey | None) -> float:
        return survey.majority_sign if survey and group.shared.get("zero_sign") == "majority" else 1.0

    def _limited(self, group: TensorGroup, survey: TrimSurvey | None, *, last: bool = True) -> Any:
        """The task vectors as kernels with limits are to see them."""
        if survey is None:
            return self.prepared(group)
        recalled = survey.recalled(group)
        prepared = survey.prepared(group, last) if recalled is None else recalled
        return survey.without_ties(group, prepared)

    def _elected(self, group: TensorGroup, survey: TrimSurvey | None) -> tuple[Any, int]:
        return kernels.elect(
            self._limited(group, survey),
            group.column("weight"),
            scales=self.factors(group, survey),
            normalize=group.shared["normalize"],
            zero_sign=self._zero_sign(group, survey),
            thresholds=survey.thresholds if survey else None,
            ceilings=survey.ceilings if survey else None,
        )

    def _added(self, group: TensorGroup, survey: TrimSurvey | None) -> Any:
        weights = group.column("weight")
        factors = [f * w for f, w in zip(self.factors(group, survey), weights, strict=True)]
        total = kernels.trimmed_sum(
            self._limited(group, survey),
            factors,
            thresholds=survey.thresholds if survey else None,
            ceilings=survey.ceilings if survey else None,
        )
        if group.shared["normalize"] and abs(sum(weights)) > 1e-8:
            total /= sum(weights)
        return total
