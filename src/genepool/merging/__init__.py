"""Merging: recipes, plans, methods and the streaming executor.

recipe = load_recipe("recipe.yaml")          what to merge
plan = plan_merge(recipe)                    everything decided and checked, nothing read
plan.weights()                               the merged model, lazily, in memory
run_plan(plan, "out")                        the merged model, on disk
inspect_models(["base", "tuned"])            whether models fit together, and how far each was moved
"""

from genepool.merging.engine import MergedWeights
from genepool.merging.group import TensorGroup
from genepool.merging.inspection import Inspection, inspect_models
from genepool.merging.method import Method, all_methods, find_method, register
from genepool.merging.parameters import REQUIRED, Parameter
from genepool.merging.plan import Plan
from genepool.merging.planning import plan_merge
from genepool.merging.recipe import ModelEntry, Recipe, Slice, Source, load_recipe, parse_recipe
from genepool.merging.run import run_plan

__all__ = [
    "REQUIRED",
    "Inspection",
    "MergedWeights",
    "Method",
    "ModelEntry",
    "Parameter",
    "Plan",
    "Recipe",
    "Slice",
    "Source",
    "TensorGroup",
    "all_methods",
    "find_method",
    "inspect_models",
    "load_recipe",
    "parse_recipe",
    "plan_merge",
    "register",
    "run_plan",
]
