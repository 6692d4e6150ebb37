"""Teaching models: examples as tensors, objectives, one training loop, and runs that survive being killed.

`batches` turns examples into tensors, `objectives/` (one file each) say what a step minimises, `optimiser` and `fit`
take the steps. Everything that follows a gradient is built on these: `genepool train`, localised skills, the ranking of
skills by alignment, children that learn, and the testbeds. Uses weights, tasks and measure.
"""

from genepool.training.batches import EncodedExamples, answer_likelihoods, encode_examples
from genepool.training.fit import Diverged, descend, fit
from genepool.training.objectives import Objective, TargetObjective, find_objective, objectives, target_objective
from genepool.training.optimiser import Optimisation, Optimiser
from genepool.training.recipe import Training, is_training, load_training
from genepool.training.train import TrainingResult, gains_of, run_training, verify_step

__all__ = [
    "Diverged",
    "EncodedExamples",
    "Objective",
    "Optimisation",
    "Optimiser",
    "TargetObjective",
    "Training",
    "TrainingResult",
    "answer_likelihoods",
    "descend",
    "encode_examples",
    "find_objective",
    "fit",
    "gains_of",
    "is_training",
    "load_training",
    "objectives",
    "run_training",
    "target_objective",
    "verify_step",
]
