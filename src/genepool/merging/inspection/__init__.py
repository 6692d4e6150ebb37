"""Inspection: what models are, whether they fit together, and how far and in which direction each was moved.

inspect_models(["base", "tuned"])            an `Inspection`: facts, problems, norms, cosines, sign conflicts, ranks
"""

from genepool.merging.inspection.inspecting import inspect_models
from genepool.merging.inspection.result import (
    Cell,
    Deltas,
    EffectiveRanks,
    Inspection,
    MatrixRank,
    ModelFacts,
    Problem,
)

__all__ = [
    "Cell",
    "Deltas",
    "EffectiveRanks",
    "Inspection",
    "MatrixRank",
    "ModelFacts",
    "Problem",
    "inspect_models",
]
