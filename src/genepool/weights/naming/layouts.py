"""One model in the layout of another: which tensor of a file is which of another file, or of the class in memory.

A layout is the names and shapes a file, or transformers' class in memory, keeps a model's tensors under. Files of one
model differ in it: with or without the prefix of the base model, experts apart or stacked, a prefix that another
version of transformers gave. Each file's layout is brought to the class's, as the loader does it, and from there to
the other file's. Where names and shapes agree already, nothing is asked and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from genepool.errors import InputError
from genepool.weights.architecture import architecture_of
from genepool.weights.change import BaseWithChange, Change
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.naming.boxes import Shape
from genepool.weights.naming.inversion import inverted
from genepool.weights.naming.renamed import Renamed, RenamedChange, Renaming
from genepool.weights.naming.views import Leaf, View, substituted
from genepool.weights.vocabulary.aligned import AlignedVocabulary
from genepool.weights.weights import Weights


def in_layout_of(weights: Weights, reference: Weights) -> Weights:
    """A model in the layout of another of its architecture.

    Args:
        weights: the model.
        reference: the other; what it stores that the model does not is absent from the result, too.

    Returns:
        `weights` itself where nothing is called otherwise, or where nothing is known of how.

    Raises:
        InputError: a file holds one tensor under two names, or a part of what belongs together.
    """
    ours, theirs = _shapes(weights), _shapes(reference)
    if not _differ(ours, theirs):
        return weights
    config = reference.config if architecture_of(reference.config) else weights.config
    architecture = architecture_of(config)
    if architecture is None:
        views = _by_prefix(ours, theirs)
    else:
        # Of another depth or size it is the same class: its own sizes are those of its own config.
        own = weights.config if _is_same_class(weights.config, config) else config
        back = inverted(_in_memory(theirs, config, reference.name))
        views = _views(back, theirs, _in_memory(ours, own, weights.name))
        views |= _others(ours, theirs, views, architecture.base_model_prefix, weights.name)
    renamed = Renamed(weights, views)
    return weights if renamed.renaming is None else renamed


def in_memory_layout(weights: Weights) -> Weights:
    """A model under the names and in the shapes that transformers' class keeps it in.

    Returns:
        `weights` itself where nothing is called otherwise, or where transformers cannot build the class.

    Raises:
        InputError: the file holds one tensor under two names, or a part of what belongs together.
    """
    architecture = architecture_of(weights.config)
    if architecture is None:
        return weights
    shapes = _shapes(weights)
    views = _in_memory(shapes, weights.config, weights.name)
    views |= _unused(shapes, views)
    ties = {name: first for name, first in architecture.ties.items() if name not in views and first in views}
    renamed = Renamed(weights, views | {name: views[first] for name, first in ties.items()}, ties)
    return weights if renamed.renaming is None else renamed


def named_as(base: Weights, wanted: Mapping[str, Shape | None], also: Collection[str] = ()) -> Weights:
    """A base in the layout that a change of it was made in, told by the names of the tensors that change.

    Args:
        base: the base.
        wanted: names -> shapes; None where any will do.
        also: further names that change. A base may lack some of them in any layout, such as a new head; of two layouts
            with all that is wanted, the one that stores more of them is meant.

    Returns:
        `base` itself where it has them all, or where no layout that is known has.
    """
    fits = _has(base, wanted)
    if fits and all(name in base for name in also):
        return base
    memory = in_memory_layout(base)
    if _has(memory, wanted) and not (fits and _stored_of(memory, also) <= _stored_of(base, also)):
        return memory
    if fits:
        return base
    from genepool.weights.meta_model import model_of

    model = model_of(base.config)
    if model is None:
        return base
    from genepool.weights.naming.conversion import Converter

    parts = Converter(model).some(wanted)
    held = memory.views if isinstance(memory, Renamed) else {n: Leaf(n, s) for n, s in _shapes(base).items()}
    views = {}
    for name, view in parts.items():
        found = substituted(view, held)
        if sum(1 for _ in found.leaves()):
            views[name] = found
    if any(name not in views or shape not in (None, views[name].shape) for name, shape in wanted.items()):
        return base
    return Renamed(base, {**views, **{name: view for name, view in held.items() if name not in views}})


def put_on(base: Weights, change: Change) -> Change:
    """A change of a base that is opened on `named_as(base, ...)`, as a change of the base itself."""
    if change.base is base:
        return change
    assert isinstance(change.base, Renamed)
    return RenamedChange(change, base, inverted({name: change.base.views[name] for name in change.names()}))


def change_in_memory_layout(change: Change) -> Change:
    """A change of an open base in the layout of transformers' class, which is where PEFT looks for modules."""
    assert change.base is not None, f"the base of {change.name} is not open"
    memory = in_memory_layout(change.base)
    if not isinstance(memory, Renamed):
        return change
    aliases = change.base.aliases()
    changed = {name: Leaf(name, change.shape(name)) for name in change.names()}
    changed |= {alias: changed[name] for alias, name in aliases.items() if name in changed and alias not in changed}
    views = {name: substituted(view, changed) for name, view in memory.views.items()}
    return RenamedChange(change, memory, {name: view for name, view in views.items() if any(view.leaves())})


def renaming_of(weights: Weights) -> Renaming | None:
    """What a model, or the change that makes it, is called otherwise in its file; None when nothing."""
    if isinstance(weights, AlignedVocabulary):
        return renaming_of(weights.model)
    if isinstance(weights, Renamed):
        return weights.renaming
    if isinstance(weights, BaseWithChange):
        change = weights.change
        return change.renaming if isinstance(change, RenamedChange) else renaming_of(weights.base)
    if isinstance(weights, Checkpoint):
        return Renaming.of({name: Leaf(stored, weights.info(name).shape) for name, stored in weights.wrapped.items()})
    return None


# ---------------------------------------------------------------------- one file


def _shapes(weights: Weights) -> dict[str, Shape]:
    """Every name in the file, copies of tied tensors included, with its shape."""
    return {name: weights.info(name).shape for name in (*weights.names(), *weights.aliases())}


def _in_memory(shapes: Mapping[str, Shape], config: Mapping[str, Any] | None, where: str) -> dict[str, View]:
    """Name in memory -> what it is made of in a file, as the loader of the config's class decides.

    Raises:
        InputError: two stored tensors are one in memory, or one that belongs to others is missing.
    """
    architecture = architecture_of(config)
    assert architecture is not None
    naming = architecture.naming(shapes)
    if not naming.conversions:
        views: dict[str, View] = {}
        for stored, name in naming.renamed.items():
            if name in views:
                raise _twice(where, next(views[name].leaves()).name, stored)
            views[name] = Leaf(stored, shapes[stored])
        return views
    from genepool.weights.meta_model import model_of
    from genepool.weights.naming.conversion import Converter

    found = Converter(model_of(config)).whole(shapes)
    for first, second in found.twice:
        raise _twice(where, first, second)
    for name, like in found.absent.items():
        raise InputError(
            f"is missing, and {like}, which belongs to it, is present",
            where=f"{where}:{name}",
            fix="The file is not whole: fetch or save the model again",
        )
    return found.views


def _twice(where: str, first: str, second: str) -> InputError:
    return InputError(
        f"is the same tensor as {second}, and both are stored",
        where=f"{where}:{first}",
        fix="The folder holds two layouts of one model: save it again with one",
    )


def _unused(shapes: Mapping[str, Shape], views: Mapping[str, View]) -> dict[str, View]:
    """What a loader has no use for, under its own name."""
    used = {leaf.name for view in views.values() for leaf in view.leaves()}
    return {name: Leaf(name, shape) for name, shape in shapes.items() if name not in used and name not in views}


# ---------------------------------------------------------------------- two files


def _differ(ours: Mapping[str, Shape], theirs: Mapping[str, Shape]) -> bool:
    """Whether two files may be two layouts of one model: each has names of its own, or entries lie otherwise."""
    if ours.keys() - theirs.keys() and theirs.keys() - ours.keys():
        return True
    return any(len(ours[name]) != len(theirs[name]) for name in ours.keys() & theirs.keys())


def _is_same_class(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    first, second = architecture_of(one), architecture_of(other)
    return first is not None and second is not None and first.name == second.name


def _views(back: Mapping[str, View], theirs: Mapping[str, Shape], memory: Mapping[str, View]) -> dict[str, View]:
    """The reference's names, made of our tensors; `back` makes them of those in memory."""
    views = {}
    for name in theirs:
        if name not in back:
            continue
        needed = list(back[name].leaves())
        # Matrices of other sizes cannot be cut as the reference's are; as they are, they are compared and refused.
        alike = isinstance(back[name], Leaf) or all(
            leaf.name in memory and memory[leaf.name].shape == leaf.shape for leaf in needed
        )
        if alike and all(leaf.name in memory for leaf in needed):
            views[name] = substituted(back[name], memory)
    return views


def _others(
    ours: Mapping[str, Shape], theirs: Mapping[str, Shape], views: Mapping[str, View], prefix: str, where: str
) -> dict[str, View]:
    """Our tensors that are none of the reference's; of buffers that no loader reads, the prefix may still differ."""
    found: dict[str, View] = {}
    used = {leaf.name for view in views.values() for leaf in view.leaves()}
    for name, shape in ours.items():
        if name in used:
            continue
        spelt = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        free = [one for one in spelt if one not in views and one not in found]
        if not free:
            raise _twice(where, name, next(leaf.name for leaf in views[name].leaves()))
        view = Leaf(name, shape)
        found[next((one for one in free if one in theirs), free[0])] = view
    return found


def _by_prefix(ours: Mapping[str, Shape], theirs: Mapping[str, Shape]) -> dict[str, View]:
    """Names with one prefix more, or less, where that alone makes all of them the reference's."""
    same = {name: Leaf(name, shape) for name, shape in ours.items()}
    mine, its = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    shortest = min(mine, key=len)
    for other in its:
        for ending, whole in ((shortest, other), (other, shortest)):
            if not whole.endswith(f".{ending}"):
                continue
            prefix = whole.removesuffix(ending)
            called = {n: n.removeprefix(prefix) if whole == shortest else prefix + n for n in mine}
            if set(called.values()) == its and len(set(called.values())) == len(mine):
                return {called.get(name, name): view for name, view in same.items()}
    return {**same}


def _stored_of(weights: Weights, names: Collection[str]) -> int:
    """How many of the names are tensors that a model holds, second names of tied ones apart."""
    return len(set(weights.names()) & set(names))


def _has(weights: Weights, wanted: Mapping[str, Shape | None]) -> bool:
    return all(name in weights and shape in (None, weights.info(name).shape) for name, shape in wanted.items())
