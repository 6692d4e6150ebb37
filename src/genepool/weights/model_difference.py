"""The difference of two models as a `Change`: what a fine-tune learned, where only the models are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from genepool import progress
from genepool.errors import InputError, listed
from genepool.kernels.reading import subtract
from genepool.weights.change import Change, block_rows
from genepool.weights.ema import ema_copies
from genepool.weights.tensor_info import shape_text
from genepool.weights.ties import tied_names
from genepool.weights.vocabulary.rows import vocabulary_rows
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


class ModelDifference(Change):
    """`tuned - base`, of two models of one architecture.

    Args:
        tuned: the fine-tune.
        base: what it was fine-tuned from.

    Attributes:
        left_out: what of the fine-tune is no change of the base's tensors, in a clause; empty for nothing. It is said
            on stderr, too: rows of tokens that only one of the two has, a head of its own where the base's is tied.

    Raises:
        InputError: they do not line up otherwise.
    """

    base: Weights

    def __init__(self, tuned: Weights, base: Weights) -> None:
        self.tuned, self.base, self.name = tuned, base, tuned.name
        self.control = None if tuned.control == base.control else tuned.control
        self._rows = self._vocabulary_rows()
        for name in base.names():
            if name not in tuned:
                raise self._unlike(f"it has no tensor {name}")
            ours, theirs = base.info(name).shape, tuned.info(name).shape
            if ours != theirs and name not in self._rows:
                raise self._unlike(
                    f"{name} has shape {shape_text(theirs)}, expected {shape_text(ours)} as in {base.name}"
                )
        extra = [name for name in tuned.names() if name not in base]
        tied = tied_names(base) if extra else {}
        if other := next((name for name in extra if name not in tied), None):
            if other in (copies := ema_copies(tuned)):
                few = listed(sorted(copies.weight_of), 2)
                raise InputError(
                    f"holds EMA copies beside its weights ({few}), and {base.name} holds none",
                    where=tuned.name,
                    fix="Run `genepool skill extract --ema drop` to leave them out, or `--ema use` to take them for "
                    "the weights",
                )
            raise self._unlike(f"it has the tensor {other}, which {base.name} does not have")
        self.left_out = self._told(extra)
        if self.left_out:
            progress.message(f"note: of what {tuned.name} changes, {self.left_out}.")

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.base.names() if self.base.info(name).is_float and self.base.info(name).numel)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        import torch

        if self._rows.get(name, stop) < stop:
            common = max(start, min(stop, self._rows[name]))
            known = [self.rows(name, start, common)] if common > start else []
            return torch.cat([*known, torch.zeros(stop - common, self.matrix(name)[1])])
        if self.tuned.holds_change(self.base):
            found = self.tuned.delta_rows(name, self.base, start, stop)
            return torch.zeros(stop - start, self.matrix(name)[1]) if found is None else found
        mine, theirs = self.tuned.read_rows(name, start, stop), self.base.read_rows(name, start, stop)
        out = torch.empty(mine.shape)
        subtract(mine.contiguous(), theirs.contiguous(), out)
        return out

    def rows_into(
        self, name: str, start: int, stop: int, out: torch.Tensor, base_rows: Callable[[], torch.Tensor] | None = None
    ) -> None:
        if base_rows is None or self._rows.get(name, stop) < stop or self.tuned.holds_change(self.base):
            super().rows_into(name, start, stop, out)
            return
        subtract(self.tuned.read_rows(name, start, stop).contiguous(), base_rows().contiguous(), out)

    def moves(self, name: str) -> bool:
        if not self.tuned.moves(name, self.base):
            return False
        # A tensor that moved shows it in its first block; only one that did not is read to its end.
        return any(bool(self.rows(name, a, b).any()) for a, b in block_rows(*self.matrix(name)))

    def identity(self) -> dict[str, Any]:
        return {"models": [{"name": self.tuned.name, "fingerprint": self.tuned.fingerprint()}]}

    def applied(self, name: str | None = None) -> Weights:
        """The fine-tune itself, without the rounding of a difference and a sum, where nothing of it is left out."""
        return super().applied(name) if self.left_out else self.tuned

    def _vocabulary_rows(self) -> dict[str, int]:
        """Tensors with one row per token of which the two have different numbers -> how many both have."""
        if all(name in self.tuned and self.tuned.info(name).shape == self.base.info(name).shape for name in self.base):
            return {}
        ours, theirs = vocabulary_rows(self.base), vocabulary_rows(self.tuned)
        return {
            name: min(rows, theirs[name])
            for name, rows in ours.items()
            if theirs.get(name, rows) != rows and self.tuned.info(name).shape[1:] == self.base.info(name).shape[1:]
        }

    def _told(self, heads: list[str]) -> str:
        told = []
        if self._rows:
            name = next(iter(self._rows))
            ours, theirs = self.base.info(name).shape[0], self.tuned.info(name).shape[0]
            count = abs(theirs - ours)
            what = f"{count} token{'s' * (count > 1)} that"
            if theirs > ours:
                told.append(f"{what} {self.base.name} lacks {'are' if count > 1 else 'is'} left out")
            else:
                told.append(f"{what} only {self.base.name} has {'stay as they are' if count > 1 else 'stays as it is'}")
        if heads:
            told.append(f"{heads[0]} is left out, which {self.base.name} ties to its embedding")
        return ", and ".join(told)

    def _unlike(self, what: str) -> InputError:
        return InputError(
            f"not a fine-tune of {self.base.name}: {what}",
            where=self.tuned.name,
            fix="Name the model it was fine-tuned from, in the shape it had then",
        )
