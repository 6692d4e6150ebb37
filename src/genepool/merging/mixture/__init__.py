"""Mixtures of experts out of dense models: recipes as mergekit's `mergekit-moe` has them, and the `Weights` they make.

The attention, norms and embeddings are the base's; the experts of every layer are the models' MLPs; the gates come from
prompts or from chance. Nothing is computed before it is written: a mixture is lazily read like any other merge.
"""

from genepool.merging.mixture.gates import HiddenStates
from genepool.merging.mixture.planning import is_mixture_file, load_mixture, plan_mixture
from genepool.merging.mixture.recipe import MixtureRecipe

__all__ = ["HiddenStates", "MixtureRecipe", "is_mixture_file", "load_mixture", "plan_mixture"]
