"""One vocabulary for models of several: which tokens it has, and where each model's row of a token comes from.

The rules are mergekit's (0.1.5, `tokenizer/build.py` and `embed.py`). The tokens are those of one model, or of all:
then the first model's keep their ids, and what the others have more comes behind. A model that lacks a token gets the
row of the base, else of the one model that has it, else the mean of those that have it. Nothing is read but the
tokenizers' files.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from genepool import progress
from genepool.errors import InputError, listed
from genepool.weights.vocabulary.aligned import LACKING, Alignment
from genepool.weights.vocabulary.comparison import vocabularies
from genepool.weights.vocabulary.reading import Vocabulary
from genepool.weights.vocabulary.rows import vocabulary_rows
from genepool.weights.vocabulary.tokenizer_files import ChangedTokenizer
from genepool.weights.weights import Weights


@dataclass(frozen=True)
class TokenRow:
    """Where the row of one token comes from, in models that lack it, or in all of them.

    Attributes:
        model: the model whose row it is; None for zeros, or where nothing is said.
        token: the token of that model; the same token when both this and `token_id` are None.
        token_id: the number of that model's row.
        zero: whether it is zeros.
        force: whether models that have the token get this row too.
    """

    model: str | None = None
    token: str | None = None
    token_id: int | None = None
    zero: bool = False
    force: bool = False

    @property
    def is_said(self) -> bool:
        """Whether it says a source."""
        return self.zero or self.model is not None


class JoinedVocabulary:
    """A vocabulary for all models of a merge.

    Args:
        models: the models by name, in one layout, the base first.
        base: the model whose rows fill in what others lack, and whose tokens come first in a union; the first model
            when None, which then fills nothing in before others.
        source: "union", or the model whose tokens are taken.
        tokens: tokens that the vocabulary has in any case, with what is said of their rows.
        pad_to_multiple_of: the number of rows is rounded up to a multiple of this.
        where: what asks for it, for errors.

    Attributes:
        tokenizer: the tokenizer of the result.
        alignment: which row of which model goes where.

    Raises:
        InputError: a tokenizer is missing or contradicts itself, or `tokens` asks for a row that is not there.
    """

    def __init__(
        self,
        models: Mapping[str, Weights],
        base: str | None,
        source: str,
        tokens: Mapping[str, TokenRow],
        pad_to_multiple_of: int | None,
        where: str,
    ) -> None:
        self._models, self._base, self._tokens, self._where = models, base, tokens, where
        self._first = base or next(iter(models))
        self.counts = {name: max(vocabulary_rows(weights).values(), default=0) for name, weights in models.items()}
        found = self._described()
        # A tokenizer may number tokens that its model has no row for.
        self.ids = {name: {t: n for t, n in one.ids.items() if n < self.counts[name]} for name, one in found.items()}
        of = self._first if source == "union" else source
        more = self._missing_tokens(found) if source == "union" else {}
        folder = models[of].tokenizer_folder
        assert folder is not None
        self.tokenizer = ChangedTokenizer(
            folder, found[of], self.counts[of], more | dict.fromkeys(tokens.keys() - more.keys()), where
        )
        self._rows = max(self.tokenizer.ids.values()) + 1
        if pad_to_multiple_of:
            self._rows += -self._rows % pad_to_multiple_of

    @cached_property
    def alignment(self) -> Alignment:
        names = list(self._models)
        own = {name: array("q", [LACKING]) * self._rows for name in names}
        fills: dict[int, tuple[tuple[str, int], ...]] = {}
        for token, row in self.tokenizer.ids.items():
            said = self._tokens.get(token)
            places = {name: self.ids[name].get(token, LACKING) for name in names}
            if said is not None and said.force:
                fills[row] = self._said(token, said)
                continue
            for name, place in places.items():
                own[name][row] = place
            having = {name: place for name, place in places.items() if place != LACKING}
            if len(having) < len(names):
                fills[row] = self._filled(having) if said is None else self._said(token, said)
        padding = frozenset(range(self._rows)) - frozenset(self.tokenizer.ids.values())
        return Alignment(own, fills, padding)

    @property
    def is_changed(self) -> bool:
        """Whether any model is shown otherwise than it is."""
        return bool(self._forced) or self.alignment.changes(self.counts)

    @property
    def _forced(self) -> list[str]:
        return [token for token, said in self._tokens.items() if said.force]

    def to_dict(self) -> dict[str, object]:
        """What a plan says of it, as plain data.

        Returns:
            tokens, rows, and for each model how many tokens it `has` and how many rows are `filled` in for it.
        """
        ids = self.tokenizer.ids
        filled = {name: sum(own[row] == LACKING for row in ids.values()) for name, own in self.alignment.own.items()}
        return {
            "tokens": len(ids),
            "rows": self._rows,
            "models": {name: {"has": len(ids) - count, "filled": count} for name, count in filled.items()},
        }

    def _described(self) -> dict[str, Vocabulary]:
        found = vocabularies(self._models)
        for name in self._models:
            if name in found:
                continue
            first = found.get(self._first)
            if first is None or self.counts[name] != self.counts[self._first]:
                raise InputError(
                    f"no file says which token each row of {name} stands for",
                    where=self._where,
                    fix="Put the model's tokenizer.json beside it",
                )
            progress.message(f"note: {name} has no tokenizer, and its rows are taken for those of {self._first}.")
            found[name] = first
        return {name: found[name] for name in self._models}

    def _missing_tokens(self, found: Mapping[str, Vocabulary]) -> dict[str, Mapping[str, bool] | None]:
        """What other models have more than the first: words in the order of their ids, then special tokens."""
        order = [self._first, *(name for name in self._models if name != self._first)]
        added: dict[str, Mapping[str, bool] | None] = {}
        for name in order:
            for token in _by_id(self.ids[name], found[name].added):
                added.setdefault(token, found[name].added[token])
        plain = dict.fromkeys(token for name in order for token in _by_id(self.ids[name], self.ids[name]))
        ours = self.ids[self._first]
        return {**{token: None for token in plain if token not in added and token not in ours}, **added}

    def _filled(self, having: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
        """The row of a token in the models that lack it."""
        if self._base in having and self._base is not None:
            return ((self._base, having[self._base]),)
        return tuple(having.items())

    def _said(self, token: str, said: TokenRow) -> tuple[tuple[str, int], ...]:
        place = f"{self._where}:tokenizer.tokens.{token}"
        if said.zero:
            return ()
        if said.model is None:
            raise InputError(
                "has no `source`, and not all models have the token",
                where=place,
                fix="Name a model, or write `source: {kind: zero}`",
            )
        number = said.token_id
        if number is None:
            wanted = token if said.token is None else said.token
            if wanted not in self.ids[said.model]:
                raise InputError(
                    f"{said.model} has no token {wanted!r}", where=f"{place}.source", fix="Name another model or token"
                )
            number = self.ids[said.model][wanted]
        if not 0 <= number < self.counts[said.model]:
            raise InputError(
                f"got the row {number}, and {said.model} has {self.counts[said.model]:,} rows of tokens",
                where=f"{place}.source.token_id",
                fix="Give a smaller number",
            )
        return ((said.model, number),)


def _by_id(ids: Mapping[str, int], tokens: Iterable[str]) -> list[str]:
    return sorted((token for token in tokens if token in ids), key=lambda token: ids[token])


def joined_note(joined: JoinedVocabulary) -> str:
    """What to say of models that are shown with rows of other models, in one clause; empty where none is."""
    models = joined.to_dict()["models"]
    assert isinstance(models, dict)
    filled = [f"{row['filled']:,} of {name}" for name, row in models.items() if row["filled"]]
    return f"rows of tokens that a model lacks are filled in: {listed(filled)}" if filled else ""
