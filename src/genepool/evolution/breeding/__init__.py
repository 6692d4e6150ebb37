"""Populations of models: how founders are held, how births become weights, and where children are kept."""

from genepool.evolution.breeding.founders import FounderAdapters, FounderError, FounderModels, Founders
from genepool.evolution.breeding.learning import Learner
from genepool.evolution.breeding.offspring import Offspring

__all__ = ["FounderAdapters", "FounderError", "FounderModels", "Founders", "Learner", "Offspring"]
