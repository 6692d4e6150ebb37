"""From names of models to everything there is to know before they are merged.

Opens headers, lines the models up, and streams past their tensors once (and past some matrices a second time, for
their rank). In memory are a block of rows of every model, and one matrix at a time while ranks are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from genepool import progress
from genepool.errors import InputError
from genepool.merging.inspection.effective_rank import find_matrices, measure_ranks, sample_matrices
from genepool.merging.inspection.facts import describe_model
from genepool.merging.inspection.problems import find_notes, find_problems
from genepool.merging.inspection.result import Deltas, EffectiveRanks, Inspection
from genepool.merging.inspection.task_vectors import compare_task_vectors, is_finite
from genepool.merging.matching import Fit, Headers
from genepool.weights import Weights, open_weights

Model = str | Path | Weights


def inspect_models(
    models: Sequence[Model],
    base: Model | None = None,
    *,
    ranks: Literal["sampled", "all", "none"] = "sampled",
    allow_pickle: bool = False,
) -> Inspection:
    """Looks at models one by one, at how they fit together, and at how far each moved from the base.

    Args:
        models: what to inspect: names as `open_weights` takes them, or open models.
        base: what the others were fine-tuned from; the first of several models when absent.
        ranks: effective ranks of how many matrices: at most 12 per part, all (embeddings and heads too), or none.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Returns:
        What was found. Models that do not fit together are a finding, not an error: see `Inspection.problems`.

    Raises:
        InputError: a model cannot be opened, or is named twice.
    """
    sources, chosen = _open(models, base, allow_pickle)
    names = list(sources)
    headers = Headers(sources)
    fit = headers.fit(names)
    deltas, spoilt = _stream(fit, sources, chosen)
    facts = [describe_model(name, sources[name], headers.roles[name], spoilt[name]) for name in names]
    return Inspection(
        tuple(facts),
        chosen,
        tuple(find_problems(facts, fit, sources, chosen)),
        tuple(find_notes(facts, fit, sources, deltas)),
        fit,
        deltas,
        _measure_ranks(fit, sources, chosen, ranks == "all") if deltas and chosen and ranks != "none" else None,
    )


def _open(models: Sequence[Model], base: Model | None, allow_pickle: bool) -> tuple[dict[str, Weights], str | None]:
    if not models:
        raise InputError("no model is named", fix="Name a folder, a file, or BASE+ADAPTER")
    sources: dict[str, Weights] = {}
    first: Weights | None = None
    if base is not None:
        first = base if isinstance(base, Weights) else open_weights(base, allow_pickle=allow_pickle)
        sources[first.name] = first
    elif len(models) > 1:
        first = models[0] if isinstance(models[0], Weights) else open_weights(models[0], allow_pickle=allow_pickle)
    for model in models:
        if base is not None and model in (base, str(base)):
            # The base listed among the models is the base, not one more model.
            continue
        if sources.keys() & {model.name if isinstance(model, Weights) else str(model)}:
            raise InputError(f"{model} is named twice", fix="Name each model once")
        if not sources and first is not None:
            opened = first
        else:
            opened = model if isinstance(model, Weights) else open_weights(model, base=first, allow_pickle=allow_pickle)
        sources[opened.name] = opened
    return sources, first.name if first is not None and len(sources) > 1 else None


def _stream(fit: Fit, sources: Mapping[str, Weights], base: str | None) -> tuple[Deltas | None, dict[str, list[str]]]:
    """The comparison of task vectors, if there is a base, and the tensors of every model that are not finite."""
    size = sum(weights.info(name).nbytes for weights in sources.values() for name in weights.names())
    deltas: Deltas | None = None
    spoilt: dict[str, list[str]] = {name: [] for name in sources}
    with progress.bar("inspecting", size, "bytes") as bar:
        seen: dict[str, set[str]] = {name: set() for name in sources}
        if base is not None:
            deltas, spoilt = compare_task_vectors(fit.matches, sources, base, bar.advance)
            for match in fit.matches:
                for model, tensor in match.tensors.items():
                    seen[model].add(tensor)
        for model, weights in sources.items():
            spoilt[model] += _spoilt(weights, seen[model], bar.advance)
    return deltas, spoilt


def _spoilt(weights: Weights, seen: set[str], advance: Callable[[float], None]) -> list[str]:
    found = []
    for name in weights.names():
        if name not in seen:
            if not is_finite(weights, name):
                found.append(name)
            advance(weights.info(name).nbytes)
    return found


def _measure_ranks(fit: Fit, sources: Mapping[str, Weights], base: str, everything: bool) -> EffectiveRanks:
    matrices = find_matrices(fit.matches, sources)
    chosen = matrices if everything else sample_matrices(matrices)
    with progress.bar("effective rank", len(chosen) * (len(sources) - 1), "matrices") as bar:
        return measure_ranks(chosen, len(matrices), sources, base, bar.advance)
