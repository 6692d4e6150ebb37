"""Which layers store their weights as (in, out), although a quantiser packs all of them as (out, in)."""

from __future__ import annotations

from genepool.weights.architecture import architecture_of
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.quantised import without_quantisation


def is_transposed(stored: Checkpoint, name: str) -> bool:
    """Whether an unquantised checkpoint has a weight the other way round: that of a Conv1D of transformers.

    Args:
        stored: the checkpoint; of an architecture that transformers does not know, no layer is one.
        name: of the weight.
    """
    architecture = architecture_of(without_quantisation(stored.config))
    if architecture is None or "transposed" not in architecture.modules.values():
        return False
    module = name.rpartition(".")[0]
    known = (module, f"{architecture.base_model_prefix}.{module}")
    return any(architecture.modules.get(one) == "transposed" for one in known)
