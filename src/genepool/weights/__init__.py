"""Checkpoints in, checkpoints out: the only package that opens weight files.

Everything else sees `Weights`, a lazily read mapping of names to tensors, `Change`, what differs from a base, and the
role each tensor plays.
"""

from genepool.weights.change import BaseWithChange, Change
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.class_head import BaseWithHead, ClassHead, head_for, with_head, without_head
from genepool.weights.derived_changes import Derived, Scaled, Sum
from genepool.weights.header import Header
from genepool.weights.in_memory import TensorWeights, load_resident, stack_changes, stacked_changes
from genepool.weights.model_difference import ModelDifference
from genepool.weights.opening import find_addition, open_change, open_weights
from genepool.weights.roles import PARTS, Role, infer_roles
from genepool.weights.skill_file import SkillFile
from genepool.weights.skill_forms import Form
from genepool.weights.skill_writer import WrittenChange, write_skill
from genepool.weights.store import store
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.vocabulary import AlignedVocabulary, vocabulary_rows
from genepool.weights.weights import Weights
from genepool.weights.writer import write_checkpoint

__all__ = [
    "PARTS",
    "AlignedVocabulary",
    "BaseWithChange",
    "BaseWithHead",
    "Change",
    "Checkpoint",
    "ClassHead",
    "Derived",
    "Form",
    "Header",
    "ModelDifference",
    "Role",
    "Scaled",
    "SkillFile",
    "Sum",
    "TensorInfo",
    "TensorWeights",
    "Weights",
    "WrittenChange",
    "find_addition",
    "head_for",
    "infer_roles",
    "load_resident",
    "open_change",
    "open_weights",
    "stack_changes",
    "stacked_changes",
    "store",
    "vocabulary_rows",
    "with_head",
    "without_head",
    "write_checkpoint",
    "write_skill",
]
