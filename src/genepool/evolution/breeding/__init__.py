"""Populations of models: how founders are held, how births become weights, and where children are kept."""

from genepool.evolution.breeding.family import Family
from genepool.evolution.breeding.learning import Learner
from genepool.evolution.breeding.stock import FounderAdapters, FounderError, FounderModels, Founders

__all__ = ["Family", "FounderAdapters", "FounderError", "FounderModels", "Founders", "Learner"]
