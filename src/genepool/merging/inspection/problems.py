"""What keeps models from being merged, and what is worth knowing before they are, each in one clause.

The same findings that make a merge stop, all of them instead of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from genepool.errors import InputError, listed
from genepool.merging.compatibility import choose_probe, is_unrelated, origin_cosine
from genepool.merging.config_differences import config_differences
from genepool.merging.inspection.result import Deltas, Kind, MergeProblem, ModelFacts
from genepool.merging.matching import Differing, Fit, ShapeConflict
from genepool.weights import Weights
from genepool.weights.dequantised import dequantised_in
from genepool.weights.quantised import by_method
from genepool.weights.tensor_info import shape_text, widest_dtype
from genepool.weights.vocabulary.comparison import vocabularies, vocabulary_conflicts

_SHOWN = 4


def find_problems(
    facts: Sequence[ModelFacts], fit: Fit, sources: Mapping[str, Weights], base: str | None
) -> list[MergeProblem]:
    """Everything that keeps the models from being merged; for a single model, what keeps it from any merge.

    Args:
        facts: of every model.
        fit: how their tensors line up.
        sources: the models, opened.
        base: what the others should have been fine-tuned from; None for a single model.
    """
    found = [
        *_depths(fit),
        *_missing(fit),
        *_shapes(fit),
        *(_vocabularies(sources) if base is not None else ()),
        *(_origins(fit, sources, base) if base is not None else ()),
    ]
    for model in facts:
        if model.quantised:
            text = f"{model.name} is quantised{by_method(model.quantised)}; name the unquantised checkpoint"
            found.append(MergeProblem("quantised", (model.name,), text))
        if model.non_finite:
            names = listed(model.non_finite, _SHOWN)
            found.append(MergeProblem("non-finite", (model.name,), f"{model.name} holds NaN or infinity in {names}"))
    return found


def find_notes(
    facts: Sequence[ModelFacts], fit: Fit, sources: Mapping[str, Weights], deltas: Deltas | None
) -> list[str]:
    """What does not keep the models from being merged, and a merger would want to know."""
    notes = []
    for what, by_model in (
        ("architecture", {model.name: model.architecture or "unknown" for model in facts}),
        ("stored type", {model.name: listed(model.dtypes) for model in facts}),
        ("output head", {model.name: _HEADS[model.head] for model in facts}),
        ("tokenizer", {model.name: "there" if model.tokenizer else "none" for model in facts}),
    ):
        if len(set(by_model.values())) > 1:
            notes.append(f"{what}s differ: {_grouped(by_model)}{_consequence(what, facts)}")
    notes += [f"{one.name} is {one.told()}" for weights in sources.values() for one in dequantised_in(weights)]
    notes += [f"configs differ: {one}" for one in config_differences(sources)]
    for buffer in fit.recomputed[:1]:
        more = f" and {len(fit.recomputed) - 1:,} more" if len(fit.recomputed) > 1 else ""
        notes.append(f"{buffer.name}{more}: {listed(buffer.absent)} does not store what every loader computes")
    if deltas is None and len(facts) > 1:
        notes.append("no float tensor has one shape in all models: there are no changes to compare")
    elif deltas is not None:
        notes += [
            f"{model} does not differ from {deltas.base} where the two line up"
            for model, moved in zip(deltas.models, deltas.moved, strict=True)
            if not moved
        ]
    return notes


_HEADS = {"tied": "the embedding", "own": "a tensor of its own", "none": "none"}


def _consequence(what: str, facts: Sequence[ModelFacts]) -> str:
    if what == "output head" and {model.head for model in facts} == {"tied", "own"}:
        return "; a merge has a head of its own, made from those and the embeddings"
    if what == "stored type":
        return f"; a merge keeps the widest, {widest_dtype([kind for model in facts for kind in model.dtypes])}"
    return ""


def _depths(fit: Fit) -> Iterator[MergeProblem]:
    for conflict in fit.depths:
        by_model = {model: f"{count} layers" for model, count in conflict.counts.items()}
        where = f" in {conflict.stack}" if conflict.stack else ""
        yield MergeProblem("depth", tuple(conflict.counts), f"depths differ{where}: {_grouped(by_model)}")


def _missing(fit: Fit) -> Iterator[MergeProblem]:
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for entry in fit.missing:
        groups.setdefault((entry.owner, entry.absent), []).append(entry.name)
    for (owner, absent), names in groups.items():
        counted = "the tensor" if len(names) == 1 else f"{len(names):,} tensors"
        lacking = "lacks" if len(absent) == 1 else "lack"
        text = f"{listed(absent)} {lacking} {counted} {listed(names, _SHOWN)} of {owner}"
        if len(names) > 1:
            text = f"{listed(absent)} {lacking} {counted} of {owner}: {listed(names, _SHOWN)}"
        yield MergeProblem("missing", (owner, *absent), text)


def _shapes(fit: Fit) -> Iterator[MergeProblem]:
    groups: dict[tuple[str, Differing, tuple[str, ...]], list[ShapeConflict]] = {}
    for entry in fit.shapes:
        groups.setdefault((entry.owner, entry.kind, tuple(entry.differing())), []).append(entry)
    for (owner, kind, differing), entries in groups.items():
        found = [
            f"{entry.name} is {_grouped({model: shape_text(shape) for model, shape in entry.shapes.items()})}"
            for entry in entries
        ]
        what = _DIFFERING[kind]
        if kind == "labels":
            what += ", " + _grouped({model: f"{shape[0]} labels" for model, shape in entries[0].shapes.items()})
        problem: Kind = "shape" if kind == "positions" else kind
        yield MergeProblem(problem, (owner, *differing), f"{what}: {'; '.join(found[: _SHOWN - 1])}{_more(found)}")


_DIFFERING: dict[Differing, str] = {
    "vocabulary": "vocabularies differ in size",
    "labels": "numbers of labels differ",
    "positions": "numbers of positions differ",
    "shape": "shapes differ",
}


def _more(found: Sequence[str]) -> str:
    return f"; and {len(found) - _SHOWN + 1:,} more tensors" if len(found) >= _SHOWN else ""


def _vocabularies(sources: Mapping[str, Weights]) -> Iterator[MergeProblem]:
    try:
        for conflict in vocabulary_conflicts(vocabularies(sources)):
            counted = f" ({conflict.count:,} in all)" if conflict.count > 1 else ""
            yield MergeProblem("vocabulary", (conflict.first, conflict.other), f"{conflict}{counted}")
    except InputError as error:
        yield MergeProblem("tokenizer", (), f"{error.where}: {error.what}")


def _origins(fit: Fit, sources: Mapping[str, Weights], base: str) -> Iterator[MergeProblem]:
    floats = [
        match
        for match in fit.matches
        if all(weights.info(match.tensors[name]).is_float for name, weights in sources.items())
    ]
    probe = choose_probe([(sources[base].info(match.tensors[base]), match.role) for match in floats])
    if probe is None:
        return
    tensors = floats[probe].tensors
    for name, weights in sources.items():
        cosine = origin_cosine(sources[base], tensors[base], weights, tensors[name]) if name != base else None
        if is_unrelated(cosine):
            text = f"{name} was not fine-tuned from {base} (cosine {cosine:.2f} in {tensors[name]})"
            yield MergeProblem("origin", (base, name), text)


def _grouped(by_model: Mapping[str, str]) -> str:
    """What holds for which models: "BF16 in a and b, F32 in c"."""
    groups: dict[str, list[str]] = {}
    for model, value in by_model.items():
        groups.setdefault(value, []).append(model)
    return ", ".join(f"{value} in {listed(models)}" for value, models in groups.items())
