"""What one model is, from its headers, its config and the files beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from genepool.merging.inspection.result import Head, ModelFacts
from genepool.weights import PARTS, Role, Weights
from genepool.weights.quantised import quantised_by
from genepool.weights.roles import Part, layer_counts
from genepool.weights.writer import VOCABULARY_FILES


def describe_model(name: str, weights: Weights, roles: Mapping[str, Role], non_finite: Sequence[str]) -> ModelFacts:
    """The facts of one model.

    Args:
        name: what to call it.
        weights: the model, opened.
        roles: the part each of its tensors plays.
        non_finite: its tensors that hold NaN or infinity.
    """
    infos = {tensor: weights.info(tensor) for tensor in roles}
    parts: dict[Part, tuple[int, int]] = {}
    for part in PARTS:
        sizes = [infos[tensor].numel for tensor, role in roles.items() if role.part == part]
        if sizes:
            parts[part] = (len(sizes), sum(sizes))
    return ModelFacts(
        name,
        _architecture(weights),
        len(infos),
        sum(info.numel for info in infos.values()),
        sum(info.nbytes for info in infos.values()),
        dict(Counter(info.dtype for info in infos.values()).most_common()),
        layer_counts(roles),
        parts,
        _head(weights, roles),
        any((weights.folder / file).is_file() for file in VOCABULARY_FILES) if weights.folder else False,
        _quantised(weights, roles),
        tuple(non_finite),
    )


def _architecture(weights: Weights) -> str | None:
    config = weights.config or {}
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else config.get("model_type")
    return str(first) if first else None


def _head(weights: Weights, roles: Mapping[str, Role]) -> Head:
    shapes = {tensor: weights.info(tensor).shape for tensor in roles if len(weights.info(tensor).shape) == 2}
    embeddings = {tensor for tensor in shapes if roles[tensor].part == "embedding"}
    heads = {shape for tensor, shape in shapes.items() if roles[tensor].part == "head"}
    copied = any(target in embeddings for target in weights.aliases().values())
    said = bool((weights.config or {}).get("tie_word_embeddings"))
    # BERT's head has matrices of its own before the one that it shares with the embedding.
    if embeddings and (copied or said) and not heads & {shapes[tensor] for tensor in embeddings}:
        return "tied"
    return "own" if heads else "none"


def _quantised(weights: Weights, roles: Mapping[str, Role]) -> str:
    if method := quantised_by(weights):
        return method
    return next((kind for tensor in roles if (kind := weights.info(tensor).dtype).startswith("F8")), "")
