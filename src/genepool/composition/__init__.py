"""Composing frozen skills: learning from a few examples how much of each to use.

`composers/` holds one composer a file. `gradient` is the core of those that learn by gradient: the gradient of a loss
with respect to the coefficients of a merge, at the cost of one backward pass and without copies of the network. A
`Composition` is what a fit learned; it folds into weights or an adapter where that is possible, and is a `Source` like
any model. Uses skills, training, tasks and weights.
"""

from genepool.composition.composer import (
    Composer,
    ComposerOptions,
    all_composers,
    find_composer,
    make_composer,
    register,
)
from genepool.composition.composition import Composition, CompositionSource, MergedComposition, Saved
from genepool.composition.recipe import Composing, is_composing, load_composing
from genepool.composition.run import Composed, compose, plan_composing
from genepool.composition.saved_model import load_composition, save_composition
from genepool.composition.skill_set import ComposedSkill, SkillSet, open_skills
from genepool.composition.world import ComposedTask, World

__all__ = [
    "Composed",
    "ComposedSkill",
    "ComposedTask",
    "Composer",
    "ComposerOptions",
    "Composing",
    "Composition",
    "CompositionSource",
    "MergedComposition",
    "Saved",
    "SkillSet",
    "World",
    "all_composers",
    "compose",
    "find_composer",
    "is_composing",
    "load_composing",
    "load_composition",
    "make_composer",
    "open_skills",
    "plan_composing",
    "register",
    "save_composition",
]
