"""The base as an adapter needs it: with another number of tokens, or with tensors that are no longer tied.

PEFT leaves the first to whoever loads the model, by resize_token_embeddings. A head that is trained beside its
embedding, or a block that several layers share, is a tensor of its own from then on. Here the same is done to a base
before the adapter is put on it, and its config says so. Heads of classes are made by `class_head`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.weights.carried import TOKENIZER_FILES
from genepool.weights.peft.content import AdapterContent
from genepool.weights.peft.resizing import resized_rows
from genepool.weights.peft.ties import untied_tensors, without_ties
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.vocabulary.rows import with_vocab_size
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


def fitted(base: Weights, content: AdapterContent) -> Weights:
    """A base with as many tokens as the adapter has, its head and shared blocks untied where the adapter trained them.

    Args:
        base: the model, its tensors named as PEFT found them.
        content: the adapter. What stands twice in it, because it is tied, is taken out.

    Returns:
        The base itself where nothing is to be done.

    Raises:
        InputError: the model that the adapter was trained on cannot be made of base and adapter.
    """
    rows, untied = resized_rows(base, content), untied_tensors(base, content)
    if not rows and not untied:
        return base
    config = with_vocab_size(base.config, next(iter(rows.values()))) if rows else base.config
    if untied:
        config = without_ties(config)
    return FittedBase(base, config, rows=rows, untied=untied, tokenizer=_tokenizer(content) if rows else None)


class FittedBase(Weights):
    """`base` with another config, and the tensors that it says.

    Args:
        base: the model.
        config: its config from now on.
        rows: how many rows tensors have from now on; those that the base lacks are zero.
        untied: a tensor that is one of its own from now on -> the one that it was tied to.
        tokenizer: the folder of the tokenizer; the base's when None.
    """

    def __init__(
        self,
        base: Weights,
        config: Mapping[str, Any] | None,
        *,
        rows: Mapping[str, int],
        untied: Mapping[str, str],
        tokenizer: Path | None,
    ) -> None:
        self.base, self.config, self.name, self.folder = base, config, base.name, base.folder
        self.chat_template, self.control = base.chat_template, base.control
        self._rows, self._untied, self._tokenizer = rows, untied, tokenizer

    @property
    def tokenizer_folder(self) -> Path | None:
        return self._tokenizer or self.base.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return (*self.base.names(), *self._untied)

    def stored_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.base.stored_names(), *self._untied)))

    def aliases(self) -> Mapping[str, str]:
        return {name: first for name, first in self.base.aliases().items() if name not in self._untied}

    def info(self, name: str) -> TensorInfo:
        info = self.base.info(self._stored(name))
        rows = self._rows.get(self._resized(name))
        return info if rows is None else TensorInfo((rows, *info.shape[1:]), info.dtype)

    def read(self, name: str) -> torch.Tensor:
        import torch

        info = self.info(name)
        stored = self.base.read(self._stored(name))
        missing = info.shape[0] - stored.shape[0] if info.shape else 0
        if missing <= 0:
            return stored[: info.shape[0]] if missing else stored
        return torch.cat((stored, stored.new_zeros((missing, *info.shape[1:]))))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if self._resized(name) in self._rows:
            return super().read_rows(name, start, stop)
        return self.base.read_rows(self._stored(name), start, stop)

    def fingerprint(self) -> str:
        said = [self.config, dict(self._rows), dict(self._untied)]
        text = json.dumps(said, sort_keys=True, default=str)
        return hashlib.sha256(f"fitted\x1f{self.base.fingerprint()}\x1f{text}".encode()).hexdigest()

    def _stored(self, name: str) -> str:
        """The base's name of what a tensor begins with."""
        return self._untied.get(name, name)

    def _resized(self, name: str) -> str:
        stored = self._stored(name)
        return self.base.aliases().get(stored, stored)


def _tokenizer(content: AdapterContent) -> Path | None:
    """The adapter's folder where it has a tokenizer."""
    folder = content.settings.path.parent
    return folder if any((folder / name).is_file() for name in TOKENIZER_FILES) else None
