"""Checks that cost next to nothing and save an afternoon: do these models share a vocabulary and an origin?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.merging.layout import Layout
from genepool.weights import Role, TensorInfo, Weights

if TYPE_CHECKING:
    from pathlib import Path

# Fine-tunes stay within a hair of their base (cosine above 0.99); unrelated models of one architecture are
# orthogonal. Far-trained models, such as continued pre-training, still stay well above this.
_UNRELATED_COSINE = 0.3
_PROBE_ELEMENTS = 1 << 12


@dataclass(frozen=True, slots=True)
class VocabularyConflict:
    """Tokens that two models number differently.

    Attributes:
        first, other: the models.
        token: the first such token.
        first_id, other_id: its number in either.
        count: how many there are.
    """

    first: str
    other: str
    token: str
    first_id: int
    other_id: int
    count: int

    def __str__(self) -> str:
        return (
            f"the vocabularies differ: token {self.token!r} is {self.first_id} in {self.first}, "
            f"{self.other_id} in {self.other}"
        )


def check_vocabularies(sources: Mapping[str, Weights], where: str) -> None:
    """Refuses models whose tokenizers give the same token different ids.

    Raises:
        InputError: naming the first token and both ids.
    """
    for conflict in vocabulary_conflicts(sources):
        raise InputError(
            str(conflict), where=where, fix="Merge models of one vocabulary, or say `vocabulary: unchecked`"
        )


def vocabulary_conflicts(sources: Mapping[str, Weights]) -> Iterator[VocabularyConflict]:
    """Every model whose tokenizer contradicts the first one's.

    Models without a readable `tokenizer.json` are not compared; tokens that only one model has are no conflict.

    Raises:
        InputError: a `tokenizer.json` that cannot be read.
    """
    seen: tuple[str, bytes, dict[str, int]] | None = None
    for name, weights in sources.items():
        path = weights.folder / "tokenizer.json" if weights.folder else None
        if path is None or not path.is_file():
            continue
        data = path.read_bytes()
        if seen is None:
            seen = (name, data, _vocabulary(path, data))
        elif data != seen[1]:
            ours, theirs = seen[2], _vocabulary(path, data)
            differing = [token for token, number in ours.items() if theirs.get(token, number) != number]
            if differing:
                token = differing[0]
                yield VocabularyConflict(seen[0], name, token, ours[token], theirs[token], len(differing))


def _vocabulary(path: Path, data: bytes) -> dict[str, int]:
    try:
        content = json.loads(data)
        vocabulary = content["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((t[0], i) for i, t in enumerate(vocabulary))
        added = ((entry["content"], entry["id"]) for entry in content.get("added_tokens", []))
        return {**dict(pairs), **dict(added)}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"not a readable tokenizer ({error!r})", where=path, fix="Fetch it again") from None


def check_origin(layout: Layout, sources: Mapping[str, Weights], where: str) -> None:
    """Refuses models that were plainly not fine-tuned from the base.

    Raises:
        InputError: naming the model, the tensor and the cosine.
    """
    based = [out for out in layout.outputs if out.base is not None]
    probe = choose_probe([(out.info, out.role) for out in based])
    if probe is None:
        return
    base = based[probe].base
    assert base is not None
    for given in based[probe].inputs:
        cosine = origin_cosine(sources[base.model], base.tensor, sources[given.model], given.tensor)
        if given.model != base.model and is_unrelated(cosine):
            raise InputError(
                f"{given.model} was not fine-tuned from {base.model} (cosine {cosine:.2f} in {given.tensor})",
                where=where,
                fix="Name the base that all models come from, or merge without a base (linear, slerp)",
            )


def choose_probe(tensors: Sequence[tuple[TensorInfo, Role]]) -> int | None:
    """Which tensor tells where a model comes from: a matrix from the middle of the stack.

    Small matrices say nothing; None when there are no others.
    """
    candidates = [
        i
        for i, (info, role) in enumerate(tensors)
        if info.is_float
        and len(info.shape) == 2
        and role.part in ("attention", "mlp")
        and info.numel >= _PROBE_ELEMENTS
    ]
    return candidates[len(candidates) // 2] if candidates else None


def origin_cosine(base: Weights, base_tensor: str, model: Weights, tensor: str) -> float | None:
    """The cosine between a model's tensor and the base's; None when one of them is zero or not finite."""
    ours, theirs = (w.read(name).float().reshape(-1) for w, name in ((base, base_tensor), (model, tensor)))
    scale = float(ours.norm() * theirs.norm())
    return None if scale == 0 or scale != scale else float(ours @ theirs) / scale


def is_unrelated(cosine: float | None) -> bool:
    """Whether a model with this cosine to its base was plainly not fine-tuned from it."""
    return cosine is not None and abs(cosine) < _UNRELATED_COSINE
