"""The `tokenizer` section of a recipe: whose tokens the result has, and where rows that a model lacks come from.

Both dialects have the same section. `genepool.merging.vocabulary` turns it into rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from genepool.schema import Strict, validate_part
from genepool.weights.vocabulary.joining import TokenRow

UNION = "union"


class TokenOrigin(Strict):
    """A row that is not that of the same token in a model."""

    kind: Literal["model_token", "zero"] = Field(description="`model_token`: a row of `model`; `zero`: zeros.")
    model: str | None = Field(None, min_length=1, description="The model whose row it is, for `model_token`.")
    token: str | None = Field(None, description="The token of that model.")
    token_id: int | None = Field(None, ge=0, description="Instead of `token`: the number of that model's row.")

    @model_validator(mode="after")
    def _complete(self) -> TokenOrigin:
        if self.kind == "zero" and (self.model, self.token, self.token_id) != (None, None, None):
            raise ValueError("`kind: zero` names no model and no token")
        if self.kind == "model_token" and self.model is None:
            raise ValueError("`kind: model_token` needs a `model`")
        if self.kind == "model_token" and (self.token is None) == (self.token_id is None):
            raise ValueError("`kind: model_token` needs one of `token` and `token_id`")
        return self


class TokenEntry(Strict):
    """What becomes of one token."""

    source: str | TokenOrigin | None = Field(
        None, description="A model by name, whose row of this token it is; or `kind: model_token` or `kind: zero`."
    )
    force: bool = Field(False, description="Give this row to the models that have the token, too.")

    @model_validator(mode="before")
    @classmethod
    def _origin(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("source"), dict):
            return {**data, "source": validate_part(TokenOrigin, data["source"], "source")}
        return data

    @property
    def row(self) -> TokenRow:
        """The same for `JoinedVocabulary`."""
        if isinstance(self.source, TokenOrigin):
            origin = self.source
            return TokenRow(origin.model, origin.token, origin.token_id, origin.kind == "zero", self.force)
        return TokenRow(self.source, force=self.force)


class TokenizerSection(Strict):
    """The tokens of the result."""

    source: str = Field(
        UNION, min_length=1, description="`union`: the tokens of all models; `base`, or a model by name: its tokens."
    )
    tokens: dict[str, TokenEntry] = Field(
        default_factory=dict, description="Tokens that the result has in any case, by their text."
    )
    pad_to_multiple_of: int | None = Field(
        None, ge=1, le=1 << 20, description="Round the number of rows up to a multiple of this."
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_said(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        tokens = data.get("tokens")
        if isinstance(tokens, dict):
            tokens = {token: {} if entry is None else entry for token, entry in tokens.items()}
        # As mergekit reads it: a key without a value says nothing.
        return {key: tokens if key == "tokens" else value for key, value in data.items() if value is not None}

    def renamed(self, rename: Callable[[str], str]) -> TokenizerSection:
        """The same section with every model's name passed through `rename`."""
        data = self.model_dump()
        if self.source not in (UNION, "base"):
            data["source"] = rename(self.source)
        for entry in data["tokens"].values():
            if isinstance(entry["source"], str):
                entry["source"] = rename(entry["source"])
            elif entry["source"] is not None and entry["source"]["model"] is not None:
                entry["source"]["model"] = rename(entry["source"]["model"])
        return TokenizerSection.model_validate(data)

    def models(self) -> list[tuple[str, str]]:
        """Every model that the section names, with the key that names it."""
        named = [] if self.source in (UNION, "base") else [("source", self.source)]
        for token, entry in self.tokens.items():
            key = f"tokens.{token}.source"
            if isinstance(entry.source, str):
                named.append((key, entry.source))
            elif entry.source is not None and entry.source.model is not None:
                named.append((f"{key}.model", entry.source.model))
        return named
