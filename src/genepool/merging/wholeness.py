"""Whether what a merge will write is all that a loader asks for, before anything is written.

A loader draws what it misses at random and says so at most in a warning. Merges of whole models of one kind have what
their models have; merges of parts are checked here against the class that their config names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from genepool.errors import InputError, listed
from genepool.merging.plan import Plan
from genepool.weights import TensorInfo, Weights
from genepool.weights.architecture import Architecture, Conversion, Naming, architecture_of


def check_whole(plan: Plan) -> None:
    """Refuses a merge of parts whose config asks for tensors that it has not, or has in other shapes.

    Raises:
        InputError: naming them. Nothing is asked where the config names no architecture that is known here.
    """
    layout, config = plan.layout, plan.config
    if config is None or not (layout.depths or layout.kept or layout.left_out):
        return
    found = architecture_of(config)
    if found is None:
        return
    naming = found.naming(plan.infos)
    lacking, unused = set(naming.missing), set(naming.unexpected)
    before = None
    if (own := plan.reference.config) is not None and (theirs := architecture_of(own)) is not None:
        # What its reference lacks already, such as a pooler nobody trained, is not this merge's doing.
        before = theirs.naming([*plan.reference.names(), *plan.reference.aliases()])
        lacking, unused = lacking - set(before.missing), unused - set(before.unexpected)
    for what, names in (("would lack", lacking), ("would hold", unused)):
        if names:
            counted = f"{len(names):,} tensor{'s' if len(names) > 1 else ''}"
            asked = "that its config asks for" if names is lacking else "that its config has no place for"
            raise InputError(
                f"the result {what} {counted} {asked}: {listed(sorted(names), 4)}",
                where=plan.recipe.where,
                fix="`genepool plan` shows what is kept and left out; slice a stack that no other part counts on",
            )
    for stored, name in naming.renamed.items():
        shape = plan.infos[stored].shape
        if name in found.tensors and found.tensors[name].shape != shape:
            raise InputError(
                f"shape {list(shape)}, where the config of the result asks for {list(found.tensors[name].shape)}",
                where=f"{plan.recipe.where}:{stored}",
                fix=f"Take this tensor, or `rest`, from a model that fits {layout.reference}",
            )
    for one in naming.conversions:
        held, wanted = _entries(one.stored, plan.infos), _entries(one.memory, found.tensors)
        if held == wanted or (before is not None and _uneven(before, one, found, plan.reference)):
            continue
        parts = before.in_file(one.memory[0]) if before is not None else ()
        lost = [name for name in parts if name not in plan.infos]
        made = f"the result would hold {held:,} of the {wanted:,} entries of {listed(one.memory, 2)}"
        raise InputError(
            made + (f": it lacks {listed(lost, 4)}" if lost else ""),
            where=plan.recipe.where,
            fix="Keep all tensors that are joined into one, such as the experts of a layer, or none of the layer",
        )


def _entries(names: tuple[str, ...], infos: Mapping[str, TensorInfo]) -> int:
    return sum(math.prod(infos[name].shape) for name in names)


def _uneven(before: Naming, one: Conversion, asked: Architecture, reference: Weights) -> bool:
    """Whether a conversion does not keep the number of entries in a model that is whole either."""
    own = before.conversion(one.memory[0])
    if own is None or own.memory != one.memory:
        return False
    infos = {name: reference.info(name) for name in own.stored if name in reference}
    return len(infos) == len(own.stored) and _entries(own.stored, infos) != _entries(own.memory, asked.tensors)
