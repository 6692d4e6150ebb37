"""Inspection: what models are, whether they fit together, and how far and in which direction each was moved.

inspect_models(["base", "tuned"])            an `Inspection`: facts, problems, norms, cosines, sign conflicts, ranks
"""

from genepool.merging.inspection.inspect import inspect_models
from genepool.merging.inspection.result import (
    Deltas,
    EffectiveRanks,
    Inspection,
    LayerPart,
    MatrixRank,
    MergeProblem,
    ModelFacts,
)

__all__ = [
    "Deltas",
    "EffectiveRanks",
    "Inspection",
    "LayerPart",
    "MatrixRank",
    "MergeProblem",
    "ModelFacts",
    "inspect_models",
]
