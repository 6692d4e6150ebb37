"""A model presented with more vocabulary rows than it stores, so that models of padded vocabularies can be merged.

A row that a model lacks is taken from the first of the models that has it, the base before all others: the delta to
the base is then zero there. Tensors are padded when they are read; nothing is stored. `genepool.merging` wraps all
models of a recipe with `vocabulary: padded`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genepool.weights.roles import infer_roles
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


def vocabulary_rows(weights: Weights) -> dict[str, int]:
    """The tensors with one row per token (embeddings, heads and their biases) -> how many rows each has.

    Position embeddings are not among them: a tensor counts only if it has as many rows as the config says there are
    tokens, or, without a config, as the first embedding has.
    """
    infos = {name: weights.info(name) for name in weights.names()}
    found = {
        name: infos[name].shape[0]
        for name, role in infer_roles(infos).items()
        if role.part in ("embedding", "head") and role.layer is None and infos[name].shape
    }
    said = _vocab_size(weights.config or {})
    rows = said if said in found.values() else next(iter(found.values()), 0)
    return {name: count for name, count in found.items() if count == rows}


class PaddedVocabulary(Weights):
    """`model` with at least `rows` rows in every tensor that has one per token.

    Args:
        model: what is padded.
        rows: how many rows each such tensor has from now on; at least as many as `model` has.
        donors: the models that missing rows are taken from, the preferred one first.
    """

    def __init__(self, model: Weights, rows: int, donors: Sequence[Weights]) -> None:
        self.model, self.rows, self.donors = model, rows, tuple(donors)
        self.name, self.folder = model.name, model.folder
        self.config = with_vocab_size(model.config, rows)
        self._padded = {name for name, count in vocabulary_rows(model).items() if count < rows}

    def names(self) -> tuple[str, ...]:
        return self.model.names()

    def aliases(self) -> Mapping[str, str]:
        return self.model.aliases()

    def stored_names(self) -> tuple[str, ...]:
        return self.model.stored_names()

    def info(self, name: str) -> TensorInfo:
        info = self.model.info(name)
        return TensorInfo((self.rows, *info.shape[1:]), info.dtype) if self._is_padded(name) else info

    def read(self, name: str) -> torch.Tensor:
        import torch

        own = self.model.read(name)
        if not self._is_padded(name):
            return own
        parts = [own]
        for donor in self.donors:
            have = sum(len(part) for part in parts)
            source = _counterpart(donor, name)
            if source and donor.info(source).shape[1:] == own.shape[1:] and donor.info(source).shape[0] > have:
                parts.append(donor.read(source)[have : self.rows].to(own.dtype))
        return torch.cat(parts)

    def delta(self, name: str, base: Weights) -> torch.Tensor | None:
        if not isinstance(base, PaddedVocabulary):
            return super().delta(name, base)
        if self.model.info(name) != base.model.info(name):
            return super().delta(name, base)
        # Both lack the same rows and take them from the same donors: the delta is exact, and zero there.
        delta = self.model.delta(name, base.model)
        if delta is None or not self._is_padded(name):
            return delta
        import torch

        return torch.cat([delta, delta.new_zeros((self.rows - len(delta), *delta.shape[1:]))])

    def moves(self, name: str, base: Weights) -> bool:
        if isinstance(base, PaddedVocabulary) and not self._is_padded(name):
            return self.model.moves(name, base.model)
        return super().moves(name, base)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if not self._is_padded(name):
            return self.model.read_rows(name, start, stop)
        info = self.model.info(name)
        if len(info.shape) < 2 or stop > info.shape[0]:
            return super().read_rows(name, start, stop)
        return self.model.read_rows(name, start, stop)

    def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
        if not isinstance(base, PaddedVocabulary) or self.model.info(name) != base.model.info(name):
            return super().delta_rows(name, base, start, stop)
        info = self.model.info(name)
        if self._is_padded(name) and (len(info.shape) < 2 or stop > info.shape[0]):
            delta = self.delta(name, base)
            return None if delta is None else delta.reshape(self.info(name).matrix)[start:stop]
        return self.model.delta_rows(name, base.model, start, stop)

    def fingerprint(self) -> str:
        if not self._padded:
            return self.model.fingerprint()
        parts = [self.model.fingerprint(), str(self.rows), *(donor.fingerprint() for donor in self.donors)]
        return hashlib.sha256("\x1f".join(["padded", *parts]).encode()).hexdigest()

    def _is_padded(self, name: str) -> bool:
        return self.aliases().get(name, name) in self._padded


def _counterpart(donor: Weights, name: str) -> str:
    """The donor's tensor of the same part: under the same name, or the embedding that a missing head is tied to."""
    if name in donor:
        return name
    return next(iter(vocabulary_rows(donor)), "")


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return size if isinstance(size, int) else None


def with_vocab_size(config: Mapping[str, Any] | None, rows: int) -> Mapping[str, Any] | None:
    """A config that says so many tokens, wherever it says how many there are."""
    if config is None:
        return None
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and "vocab_size" in inner:
        config = {**config, "text_config": {**inner, "vocab_size": rows}}
    return {**config, "vocab_size": rows} if "vocab_size" in config else config
