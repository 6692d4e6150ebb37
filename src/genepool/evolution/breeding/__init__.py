"""Populations of models: how founders are held, how births become weights, and where children are kept."""

from genepool.evolution.breeding.family import Family
from genepool.evolution.breeding.learning import Learner
from genepool.evolution.breeding.stock import AdapterStock, FounderError, ModelStock, Stock

__all__ = ["AdapterStock", "Family", "FounderError", "Learner", "ModelStock", "Stock"]
