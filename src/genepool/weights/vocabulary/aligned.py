"""A model whose rows of tokens are in another order than its file has them, with rows that it lacks.

Models of different vocabularies are merged this way: all of them are shown with the rows of one vocabulary. Rows are
moved and filled in as they are read, and nothing is stored, so memory is that of the rows in work. What decides which
row goes where is an `Alignment`; `joining` makes one from tokens, and `padded` from the numbers of rows alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.weights.tensor_info import TensorInfo, torch_dtype, widest_dtype
from genepool.weights.vocabulary.rows import vocabulary_rows, with_vocab_size
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

    from genepool.weights.formats import TensorFile

# In `Alignment.own`: the model has no row for the token.
LACKING = -1
# Rows of a tensor that are added up at once for the mean of all.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Alignment:
    """Which row of which model each row of a common vocabulary is.

    Attributes:
        own: model -> for each row of the common vocabulary the row of the model, or `LACKING`.
        fills: row of the common vocabulary -> the (model, row) pairs whose mean it is in every model that lacks it;
            no pairs stand for zeros.
        padding: rows that stand for no token; in each model they are the mean of its other rows.
    """

    own: Mapping[str, array[int]]
    fills: Mapping[int, tuple[tuple[str, int], ...]]
    padding: frozenset[int] = field(default_factory=frozenset)

    @property
    def rows(self) -> int:
        """How many rows the common vocabulary has."""
        return len(next(iter(self.own.values())))

    def changes(self, counts: Mapping[str, int]) -> bool:
        """Whether any model's rows are not already those of the common vocabulary.

        Args:
            counts: model -> how many rows it has.
        """
        return any(
            counts[model] != len(own) or any(row != at for at, row in enumerate(own)) for model, own in self.own.items()
        )

    def digest(self) -> str:
        """SHA-256, hex, of what goes where."""
        parts = [own.tobytes() for own in self.own.values()]
        models = {model: number for number, model in enumerate(self.own)}
        filled = {row: [(models[model], place) for model, place in pairs] for row, pairs in sorted(self.fills.items())}
        return hashlib.sha256(b"\x1f".join([*parts, repr((filled, sorted(self.padding))).encode()])).hexdigest()


class AlignedVocabulary(Weights):
    """A model with the rows of a common vocabulary. Tensors without a row per token are the model's own.

    Args:
        model: what is shown with other rows.
        name: what the alignment calls it.
        alignment: which row goes where.
        models: every model of the alignment, by the names it uses; missing rows are taken from them.
    """

    def __init__(self, model: Weights, name: str, alignment: Alignment, models: Mapping[str, Weights]) -> None:
        self.model, self.alignment, self.models = model, alignment, dict(models)
        self.name, self.folder, self.chat_template = model.name, model.folder, model.chat_template
        self.control = model.control
        self.config = with_vocab_size(model.config, alignment.rows)
        self._called, self._own = name, alignment.own[name]
        self._vocabulary = vocabulary_rows(model)
        self._infos: dict[str, TensorInfo] = {}
        self._means: dict[str, torch.Tensor] = {}

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.model.tokenizer_folder

    @property
    def rows(self) -> int:
        """How many rows each tensor with one per token has."""
        return self.alignment.rows

    @cached_property
    def added_rows(self) -> int | None:
        """How many rows come behind those of the model; None where its own are not all there in their order."""
        count = max(self._vocabulary.values(), default=0)
        kept = all(row == (at if at < count else LACKING) for at, row in enumerate(self._own))
        return self.rows - count if kept and count <= self.rows else None

    def names(self) -> tuple[str, ...]:
        return self.model.names()

    def aliases(self) -> Mapping[str, str]:
        return self.model.aliases()

    def stored_names(self) -> tuple[str, ...]:
        return self.model.stored_names()

    def info(self, name: str) -> TensorInfo:
        if not self._is_aligned(name):
            return self.model.info(name)
        if name not in self._infos:
            info = self.model.info(name)
            # Filled-in rows may be another model's, whose values must not be rounded.
            kinds = [one.info(found).dtype for one in self.models.values() if (found := _counterpart(one, name))]
            self._infos[name] = TensorInfo((self.rows, *info.shape[1:]), widest_dtype([info.dtype, *kinds]))
        return self._infos[name]

    def stored_in(self, name: str) -> tuple[TensorFile, str] | None:
        return None if self._is_aligned(name) else self.model.stored_in(name)

    def read(self, name: str) -> torch.Tensor:
        if not self._is_aligned(name):
            return self.model.read(name)
        return self._rows_of(name, 0, self.rows).reshape(self.info(name).shape)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if not self._is_aligned(name):
            return self.model.read_rows(name, start, stop)
        shape = self.info(name).shape
        if len(shape) == 2:
            return self._rows_of(name, start, stop)
        # The entries of a vector are one row, and tensors with more axes have several rows a token.
        return super().read_rows(name, start, stop)

    def delta(self, name: str, base: Weights) -> torch.Tensor | None:
        if not self._is_like(base, name):
            return super().delta(name, base)
        assert isinstance(base, AlignedVocabulary)
        if not self._is_aligned(name):
            return self.model.delta(name, base.model)
        if not self.moves(name, base):
            return None
        return self._delta_of(name, base, 0, self.rows).reshape(self.info(name).shape)

    def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
        if not self._is_like(base, name):
            return super().delta_rows(name, base, start, stop)
        assert isinstance(base, AlignedVocabulary)
        if not self._is_aligned(name):
            return self.model.delta_rows(name, base.model, start, stop)
        if len(self.info(name).shape) == 2 and self.moves(name, base):
            return self._delta_of(name, base, start, stop)
        delta = self.delta(name, base)
        return None if delta is None else delta.reshape(self.info(name).matrix)[start:stop]

    def moves(self, name: str, base: Weights) -> bool:
        if not self._is_like(base, name):
            return super().moves(name, base)
        assert isinstance(base, AlignedVocabulary)
        return self.model.moves(name, base.model) or (self._is_aligned(name) and self._own != base._own)

    def holds_change(self, base: Weights) -> bool:
        return isinstance(base, AlignedVocabulary) and self.model.holds_change(base.model)

    def fingerprint(self) -> str:
        if self.added_rows == 0:
            return self.model.fingerprint()
        donors = {model for pairs in self.alignment.fills.values() for model, _ in pairs}
        prints = [self.model.fingerprint(), self._called, *(self.models[one].fingerprint() for one in sorted(donors))]
        return hashlib.sha256("\x1f".join(["aligned", self.alignment.digest(), *prints]).encode()).hexdigest()

    # ------------------------------------------------------------------ rows

    def _is_aligned(self, name: str) -> bool:
        return self.aliases().get(name, name) in self._vocabulary

    def _is_like(self, base: Weights, name: str) -> bool:
        """Whether the base is shown with the same rows, so that equal places hold equal tokens."""
        return isinstance(base, AlignedVocabulary) and base.alignment is self.alignment and name in base

    def _place(self, row: int) -> tuple[str | None, int]:
        """Where a row is copied from, (model, row); no model for a mean, for zeros and for padding."""
        if (own := self._own[row]) != LACKING:
            return self._called, own
        pairs = self.alignment.fills.get(row, ())
        return pairs[0] if len(pairs) == 1 else (None, row)

    def _rows_of(self, name: str, start: int, stop: int) -> torch.Tensor:
        """All entries of some tokens, `(stop - start, entries of a token)`."""
        import torch

        info = self.info(name)
        result = torch.empty((stop - start, info.numel // max(1, self.rows)), dtype=torch_dtype(info.dtype))
        copied: dict[str, tuple[list[int], list[int]]] = {}
        for number in range(stop - start):
            model, at = self._place(start + number)
            if model is None:
                result[number] = self._computed(name, start + number)
                continue
            numbers, rows = copied.setdefault(model, ([], []))
            numbers.append(number)
            rows.append(at)
        for model, (numbers, rows) in copied.items():
            found = self._rows_in(model, name, rows)
            if len(numbers) == len(result):
                result.copy_(found)
            else:
                result[torch.tensor(numbers)] = found.to(result.dtype)
        return result

    def _computed(self, name: str, row: int) -> torch.Tensor:
        """A row that is a mean, or zeros."""
        import torch

        if row in self.alignment.padding:
            return self._mean(name)
        pairs = self.alignment.fills.get(row, ())
        rows = [self._rows_in(donor, name, [at])[0].to(torch.float32) for donor, at in pairs]
        return sum(rows[1:], rows[0]) / len(rows) if rows else torch.zeros(())

    def _rows_in(self, model: str, name: str, rows: list[int]) -> torch.Tensor:
        """Some of a model's own rows, in the order given."""
        weights = self.model if model == self._called else self.models[model]
        return _gathered(weights, name if weights is self.model else _counterpart(weights, name), rows)

    def _mean(self, name: str) -> torch.Tensor:
        """The mean of the rows that stand for tokens, `(entries of a token,)` in float64."""
        import torch

        if name not in self._means:
            # Padding lies behind the tokens, but for ids that a tokenizer leaves out.
            total = torch.zeros(self.info(name).numel // self.rows, dtype=torch.float64)
            known = [row for row in range(self.rows) if row not in self.alignment.padding]
            for first, end in _spans(known):
                for start in range(known[first], known[end - 1] + 1, _ROWS_AT_ONCE):
                    stop = min(known[end - 1] + 1, start + _ROWS_AT_ONCE)
                    total += self._rows_of(name, start, stop).to(torch.float64).sum(0)
            self._means[name] = total / max(1, len(known))
        return self._means[name]

    def _delta_of(self, name: str, base: AlignedVocabulary, start: int, stop: int) -> torch.Tensor:
        """The difference of some tokens to the base's, exact where both have a row of one number."""
        import torch

        if not self.model.holds_change(base.model):
            # Rows that both lack are filled alike, so their difference is zero.
            ours, theirs = self._rows_of(name, start, stop), base._rows_of(name, start, stop)
            return ours.to(torch.float32) - theirs.to(torch.float32)
        result = torch.zeros((stop - start, self.info(name).numel // max(1, self.rows)))
        first = start
        while first < stop:
            kind, end = self._shared(base, first), first + 1
            while end < stop and self._shared(base, end) == (kind and (kind[0], kind[1] + end - first)):
                end += 1
            part = result[first - start : end - start]
            if kind is None:
                ours, theirs = self._rows_of(name, first, end), base._rows_of(name, first, end)
                torch.sub(ours.to(torch.float32), theirs.to(torch.float32), out=part)
            elif kind[0] == "own":
                part.copy_(self._exact(name, base, kind[1], kind[1] + end - first))
            first = end
        return result

    def _shared(self, base: AlignedVocabulary, row: int) -> tuple[str, int] | None:
        """("own", its number) of a row that both have under one number, ("filled", row) of one that both lack."""
        ours, theirs = self._own[row], base._own[row]
        if ours != theirs or row in self.alignment.padding:
            return None
        return ("filled", row) if ours == LACKING else ("own", ours)

    def _exact(self, name: str, base: AlignedVocabulary, start: int, stop: int) -> torch.Tensor:
        import torch

        info = self.model.info(name)
        if len(info.shape) == 2:
            delta = self.model.delta_rows(name, base.model, start, stop)
        elif info == base.model.info(name):
            whole = self.model.delta(name, base.model)
            delta = None if whole is None else whole.reshape(info.shape[0], -1)[start:stop]
        else:
            ours, theirs = _token_rows(self.model, name, start, stop), _token_rows(base.model, name, start, stop)
            delta = ours.to(torch.float32) - theirs.to(torch.float32)
        return torch.zeros(()) if delta is None else delta


def padded(models: Mapping[str, Weights]) -> dict[str, Weights]:
    """The models with as many rows of tokens as the one that has most; rows of one number stand for one token.

    A row that a model lacks is that of the first model that has it, so its delta to the base is zero there.

    Args:
        models: the models by name, the base first.
    """
    counts = {name: max(vocabulary_rows(weights).values(), default=0) for name, weights in models.items()}
    rows = max(counts.values())
    if all(count == rows for count in counts.values()):
        return dict(models)
    own = {name: array("q", (row if row < count else LACKING for row in range(rows))) for name, count in counts.items()}
    fills = {
        row: ((next(name for name, count in counts.items() if count > row), row),)
        for row in range(min(counts.values()), rows)
    }
    return aligned(models, Alignment(own, fills))


def aligned(models: Mapping[str, Weights], alignment: Alignment) -> dict[str, Weights]:
    """Every model with the rows of the common vocabulary."""
    return {name: AlignedVocabulary(weights, name, alignment, models) for name, weights in models.items()}


def _token_rows(weights: Weights, name: str, start: int, stop: int) -> torch.Tensor:
    info = weights.info(name)
    if len(info.shape) == 2:
        return weights.read_rows(name, start, stop)
    return weights.read(name).reshape(info.shape[0], -1)[start:stop]


def _gathered(weights: Weights, name: str, rows: list[int]) -> torch.Tensor:
    """Some tokens' rows in any order, `(len(rows), entries of a token)`."""
    import torch

    spans = list(_spans(rows))
    if len(spans) > 1 and (stored := weights.stored_in(name)) is not None:
        # Out of the file's pages at once: reading scattered rows one by one takes ten times as long.
        whole = stored[0].read(stored[1])
        return whole.reshape(whole.shape[0], -1)[torch.tensor(rows)]
    parts = [_token_rows(weights, name, rows[first], rows[end - 1] + 1) for first, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _spans(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Where numbers follow each other, as (first, end) in the list."""
    first = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1:
            yield first, at
            first = at


def _counterpart(donor: Weights, name: str) -> str:
    """The donor's tensor of the same part: under the same name, or the embedding that a missing head is tied to."""
    if name in donor:
        return name
    return next(iter(vocabulary_rows(donor)), "")
