"""Merging: recipes, plans, methods and the streaming executor.

recipe = load_recipe("recipe.yaml")          what to merge
plan = plan_merge(recipe)                    everything decided and checked, nothing read
plan.weights()                               the merged model, lazily, in memory
run_plan(plan, "out")                        the merged model, on disk
"""

from genepool.merge.method import Method, TensorGroup, all_methods, find_method, register
from genepool.merge.parameters import REQUIRED, Parameter
from genepool.merge.plan import MergedWeights, Plan
from genepool.merge.planning import plan_merge
from genepool.merge.recipe import ModelEntry, Recipe, Slice, Source, load_recipe, parse_recipe
from genepool.merge.run import run_plan

__all__ = [
    "REQUIRED",
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
    "load_recipe",
    "parse_recipe",
    "plan_merge",
    "register",
    "run_plan",
]
