"""A model with the tokenizer of a donor: its rows of common tokens, and estimated rows of all others."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.architecture import architecture_of
from genepool.weights.in_memory import TensorWeights
from genepool.weights.roles import infer_roles
from genepool.weights.tensor_info import torch_dtype
from genepool.weights.vocabulary.aligned import LACKING, AlignedVocabulary, Alignment
from genepool.weights.vocabulary.rows import generation_settings, vocabulary_rows, with_special_ids
from genepool.weights.vocabulary.transplant.donor import TokenizerDonor, described, splitter
from genepool.weights.vocabulary.transplant.estimators import MissingRows, RowEstimator
from genepool.weights.vocabulary.transplant.matching import Meaning, matches, meanings
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

_MODEL, _ESTIMATED = "model", "estimated"


@dataclass(frozen=True)
class TransplantSettings:
    """How a tokenizer is transplanted.

    Attributes:
        estimator: of rows that the model lacks.
        k: how many common tokens a row may be made of; mergekit-tokensurgeon's default is 64.
        byte_match, prefix_match: which tokens count as common, beside those of one text (`matching.matches`).
        seed: of estimators that draw.
    """

    estimator: RowEstimator
    k: int = 64
    byte_match: bool = False
    prefix_match: bool = False
    seed: int = 0


class Transplanted(AlignedVocabulary):
    """A model with a donor's tokenizer.

    Args:
        model: the model.
        alignment: which of its rows, and of the estimated ones, goes where.
        estimated: the estimated rows, in tensors of the model's names.
        donor: whose tokenizer it is.
    """

    def __init__(self, model: Weights, alignment: Alignment, estimated: Weights, donor: TokenizerDonor) -> None:
        super().__init__(model, _MODEL, alignment, {_MODEL: model, _ESTIMATED: estimated})
        self._donor = donor
        self._moved = {row: place for place, row in enumerate(alignment.own[_MODEL]) if row != LACKING}
        # The template is the tokenizer's.
        self.chat_template = None
        if self.config is not None:
            self.config = with_special_ids(self.config, donor.special_ids(), self._moved)

    @property
    def tokenizer_folder(self) -> Path | None:
        return self._donor.folder

    def generation_config(self) -> dict[str, Any] | None:
        """How the model writes, with the donor's ids; None where the donor's own file goes along, or none is there."""
        return generation_settings(self.folder, self._donor.folder, self._donor.special_ids(), self._moved)


class Transplantation:
    """What a transplant does, decided from tokenizers and headers; `weights` reads and estimates.

    Args:
        model: the model that gets the tokenizer.
        donor: where the tokenizer comes from.
        settings: how.

    Attributes:
        common: the tokens that both have.

    Raises:
        InputError: the model has no tokenizer or no rows of tokens, no token is common, or the estimator needs what
            the donor has not.
    """

    def __init__(self, model: Weights, donor: TokenizerDonor, settings: TransplantSettings) -> None:
        self._model, self._donor, self._settings = model, donor, settings
        self._tensors = vocabulary_rows(model)
        if not self._tensors:
            raise InputError("has no embedding with a row per token", where=model.name, fix="Name a language model")
        self._rows = max(self._tensors.values())
        _refuse_uneven(model, self._tensors)
        self._vocabulary = described(model.tokenizer_folder, model.name)
        assert model.tokenizer_folder is not None
        self._folder = model.tokenizer_folder
        if settings.estimator.needs_donor and donor.weights is None:
            raise InputError(
                f"holds a tokenizer alone, and {settings.estimator.name} needs the rows of a model",
                where=donor.name,
                fix="Name a model with this tokenizer, or `--method subword`",
            )
        # Of a donor with fewer rows than tokens only those with a row count: nothing is known of the others.
        count = donor.size if donor.rows is None else min(donor.size, donor.rows)
        self._meanings = meanings(donor.vocabulary, donor.folder, count)
        own = meanings(self._vocabulary, self._folder, self._rows)
        found = list(matches(self._meanings, own, byte=settings.byte_match, prefix=settings.prefix_match))
        self.common = {one.donor: one for one in found}
        if not self.common:
            raise InputError(
                f"the tokenizer has no token in common with that of {model.name}",
                where=donor.name,
                fix="Name another tokenizer",
            )
        if settings.k < 1:
            raise InputError(f"must be at least 1, got {settings.k}", where="--k", fix="Give 1 or more")

    @cached_property
    def missing(self) -> dict[int, Meaning]:
        """The donor's tokens that the model lacks, by their ids."""
        return {row: meaning for meaning, row in self._meanings.items() if row not in self.common}

    def to_dict(self) -> dict[str, Any]:
        """What is done, as plain data.

        Returns:
            method, k, tokens, rows_before, common (kind of match -> how many tokens), estimated (how many),
            bytes_in_memory (of the rows that estimating holds, in float32, of the largest tensor).
        """
        return {
            "method": self._settings.estimator.name,
            "k": self._settings.k,
            "tokens": self._donor.size,
            "rows_before": self._rows,
            "common": dict(sorted(Counter(one.kind for one in self.common.values()).items())),
            "estimated": len(self.missing),
            "bytes_in_memory": max(self._bytes(name) for name in self._tensors),
        }

    def weights(self) -> Transplanted:
        """The model with the donor's tokenizer; its new rows are in memory."""
        size = self._donor.size
        own = array("q", [LACKING]) * size
        for row, match in self.common.items():
            own[row] = match.model
        estimated = TensorWeights({name: self._estimated(name) for name in self._tensors}, _ESTIMATED)
        fills = {row: ((_ESTIMATED, number),) for number, row in enumerate(self.missing)}
        padding = frozenset(range(size)) - self.common.keys() - self.missing.keys()
        places = {_MODEL: own, _ESTIMATED: array("q", [LACKING]) * size}
        return Transplanted(self._model, Alignment(places, fills, padding), estimated, self._donor)

    def _estimated(self, name: str) -> torch.Tensor:
        """The missing rows of one tensor, in its stored type."""
        import torch

        info = self._model.info(name)
        kind = torch_dtype(info.dtype)
        if len(info.shape) != 2:
            # A bias: nothing speaks for or against a new token.
            return torch.zeros((len(self.missing), *info.shape[1:]), dtype=kind)
        settings = self._settings
        rows = _finite(self._model.read(name).to(torch.float32), self._model, name)
        theirs = self._donor_rows(name) if settings.estimator.needs_donor else None
        common = torch.tensor(list(self.common))
        missing = MissingRows(
            name,
            rows,
            list(self.missing.values()),
            rows[torch.tensor([match.model for match in self.common.values()])],
            None if theirs is None else theirs[common],
            None if theirs is None else theirs[torch.tensor(list(self.missing), dtype=torch.int64)],
            splitter(self._folder, self._vocabulary, self._rows),
            settings.k,
            settings.seed,
        )
        estimated = settings.estimator.estimate(missing).to(kind)
        if not bool(torch.isfinite(estimated).all()):
            raise InputError(
                f"rows that {settings.estimator.name} estimates are larger than {info.dtype} holds",
                where=f"{self._model.name}:{name}",
                fix="Name another --method",
            )
        return estimated

    def _donor_rows(self, name: str) -> torch.Tensor:
        """The donor's tensor of the same part: the head for a head where it has one, else its embedding."""
        import torch

        donor = self._donor.weights
        assert donor is not None
        theirs = _counterpart(self._model, donor, name)
        return _finite(donor.read(theirs).to(torch.float32), donor, theirs)

    def _bytes(self, name: str) -> int:
        shape = self._model.info(name).shape
        width = shape[1] if len(shape) > 1 else 1
        rows = self._rows + len(self.missing) + len(self.common)
        donor = self._donor.weights
        theirs = 0
        if self._settings.estimator.needs_donor and donor is not None:
            theirs = 2 * donor.info(_counterpart(self._model, donor, name)).numel
        return 4 * (rows * width + theirs)


def _refuse_uneven(model: Weights, tensors: Mapping[str, int]) -> None:
    """Refuses a model whose class has an embedding or a head of tokens that is not among its tensors of tokens."""
    found = architecture_of(model.config)
    if found is None:
        return
    stored = set(model.names())
    naming = found.naming(stored)
    modules = (found.input_embeddings, found.output_embeddings)
    for name in (one for module in modules for one in naming.in_file(f"{module}.weight")):
        if name in stored and name not in tensors:
            other, rows = next(iter(tensors.items()))
            raise InputError(
                f"holds {model.info(name).shape[0]:,} rows, and {other} {rows:,}",
                where=f"{model.name}:{name}",
                fix="Give both a row per token first, with resize_token_embeddings of transformers",
            )


def _finite(rows: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    """Rows that others are estimated of; one number that is none would spoil them all."""
    import torch

    if not bool(torch.isfinite(rows).all()):
        raise InputError(
            "holds NaN or infinity, and rows are estimated of it", where=f"{weights.name}:{name}", fix="Mend the model"
        )
    return rows


def _counterpart(model: Weights, donor: Weights, name: str) -> str:
    """What a donor calls the embedding or the head; its embedding for a head where it has none of its own."""
    infos = {one: model.info(one) for one in model.names()}
    theirs = {one: donor.info(one) for one in donor.names()}
    part, roles = infer_roles(infos)[name].part, infer_roles(theirs)
    matrices = [one for one in vocabulary_rows(donor) if len(theirs[one].shape) == 2]
    if not matrices:
        raise InputError("has no embedding with a row per token", where=donor.name, fix="Name a language model")
    return next((one for one in matrices if roles[one].part == part), matrices[0])
