"""Whether what a merge will write is all that a loader asks for, before anything is written.

A loader draws what it misses at random and says so at most in a warning. Merges of whole models of one kind have what
their models have; merges of parts are checked here against the class that their config names.
"""

from __future__ import annotations

from genepool.errors import InputError, listed
from genepool.merging.plan import Plan
from genepool.weights.architecture import architecture_of


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
