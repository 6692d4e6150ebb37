"""What one model is, from its headers, its config and the files beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from genepool.merging.inspection.result import Head, ModelFacts
from genepool.weights import PARTS, Role, Weights
from genepool.weights.architecture import architecture_of
from genepool.weights.carried import VOCABULARY_FILES
from genepool.weights.dequantised import DequantisedCheckpoint
from genepool.weights.quantised import quantised_by
from genepool.weights.roles import Part, layer_counts
from genepool.weights.ties import tied_names


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
    packed = weights if isinstance(weights, DequantisedCheckpoint) and weights.packed else None
    files = [packed.stored.info(tensor) for tensor in packed.stored.names()] if packed else []
    return ModelFacts(
        name,
        _architecture(weights),
        len(infos),
        sum(info.numel for info in infos.values()),
        sum(info.nbytes for info in files or infos.values()),
        dict(Counter(info.dtype for info in infos.values()).most_common()),
        dict(Counter(info.dtype for info in files).most_common()),
        packed.scheme.form() if packed else "",
        layer_counts(roles),
        parts,
        head_of(weights, roles),
        any((weights.folder / file).is_file() for file in VOCABULARY_FILES) if weights.folder else False,
        _quantised(weights, roles),
        tuple(non_finite),
    )


def _architecture(weights: Weights) -> str | None:
    config = weights.config or {}
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else config.get("model_type")
    return str(first) if first else None


def head_of(weights: Weights, roles: Mapping[str, Role]) -> Head:
    """Whether a model's output head shares its embedding ("tied"), is a tensor of its own ("own"), or is not there.

    Args:
        weights: the model, opened.
        roles: the part each of its tensors plays.
    """
    architecture = architecture_of(weights.config)
    if architecture is not None and architecture.output_embeddings:
        head = f"{architecture.output_embeddings}.weight"
        stored = architecture.naming({*weights.names(), *weights.aliases()}).in_file(head)
        if not stored:
            return "tied" if head in tied_names(weights) else "none"
        return "tied" if stored[0] in {*weights.aliases(), *weights.aliases().values()} else "own"
    heads = [name for name, role in roles.items() if role.part == "head" and len(weights.info(name).shape) == 2]
    return "own" if heads else "none"


def _quantised(weights: Weights, roles: Mapping[str, Role]) -> str:
    if method := quantised_by(weights):
        return method
    return next((kind for tensor in roles if (kind := weights.info(tensor).dtype).startswith("F8")), "")
