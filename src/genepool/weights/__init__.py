"""Checkpoints in, checkpoints out: the only package that opens weight files.

Everything else sees `Weights`, a lazily read mapping of names to tensors, and the role each tensor plays.
"""

from genepool.weights.checkpoint import Checkpoint
from genepool.weights.opening import open_weights
from genepool.weights.overlay import TensorWeights, load_resident, stack_changes, stacked_changes
from genepool.weights.padding import PaddedVocabulary, vocabulary_rows
from genepool.weights.roles import PARTS, Role, infer_roles
from genepool.weights.source import Weights
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.writer import write_checkpoint

__all__ = [
    "PARTS",
    "Checkpoint",
    "PaddedVocabulary",
    "Role",
    "TensorInfo",
    "TensorWeights",
    "Weights",
    "infer_roles",
    "load_resident",
    "open_weights",
    "stack_changes",
    "stacked_changes",
    "vocabulary_rows",
    "write_checkpoint",
]
