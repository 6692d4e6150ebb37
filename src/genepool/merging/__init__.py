"""Merging: recipes, plans, methods and the streaming executor.

recipe = load_recipe("recipe.yaml")          what to merge
plan = plan_merge(recipe)                    everything decided and checked, nothing read
plan.weights()                               the merged model, lazily, in memory
run_plan(plan, "out")                        the merged model, on disk
inspect_models(["base", "tuned"])            whether models fit together, and how far each was moved
greedy_soup(models, score)                   the average of the models that make it better
write_adapter(plan, "out", rank)             the same as a LoRA adapter of the base
"""

from genepool.merging.adapter_report import AdapterReport
from genepool.merging.as_lora import write_adapter
from genepool.merging.group import TensorGroup
from genepool.merging.inspection import Inspection, inspect_models
from genepool.merging.lines_scaling import Lines
from genepool.merging.loading import load_recipe, parse_recipe
from genepool.merging.merged_weights import MergedWeights
from genepool.merging.method import Method
from genepool.merging.parameters import REQUIRED, Parameter
from genepool.merging.plan import Plan
from genepool.merging.planning import plan_merge
from genepool.merging.recipe import Recipe
from genepool.merging.recipe_parts import LayerSource, ModelEntry, Module, Slice, TensorRule
from genepool.merging.registry import all_methods, find_method, register
from genepool.merging.run import run_plan
from genepool.merging.soup import Soup, SoupStep, greedy_soup
from genepool.merging.survey import Sums, Survey, Thresholds
from genepool.merging.weighted_sum import Gram, SumFactors, WeightedSum

__all__ = [
    "REQUIRED",
    "AdapterReport",
    "Gram",
    "Inspection",
    "LayerSource",
    "Lines",
    "MergedWeights",
    "Method",
    "ModelEntry",
    "Module",
    "Parameter",
    "Plan",
    "Recipe",
    "Slice",
    "Soup",
    "SoupStep",
    "SumFactors",
    "Sums",
    "Survey",
    "TensorGroup",
    "TensorRule",
    "Thresholds",
    "WeightedSum",
    "all_methods",
    "find_method",
    "greedy_soup",
    "inspect_models",
    "load_recipe",
    "parse_recipe",
    "plan_merge",
    "register",
    "run_plan",
    "write_adapter",
]
