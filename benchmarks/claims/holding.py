"""Specialists held as skills: packed into few bytes, and cut down to the few entries that matter."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.claims.stamp import stamp
from benchmarks.claims.worlds import LIMITS, Scores, World
from genepool import progress
from genepool.skills import Graft, compress
from genepool.skills.localising import MaskScorer
from genepool.tasks import LanguageModel
from genepool.threads import torch_threads
from genepool.training.batches import encode_examples
from genepool.weights import BaseWithChange, ModelDifference, SkillFile, TensorWeights, Weights

# Of the bytes of a dense change in bfloat16.
PACKED = 16
# Passes over the validation examples in learning a mask.
STEPS = 60


def packed(world: World, skill: str) -> Scores:
    """Test scores of the base with a specialist's change in a sixteenth of its bytes in bfloat16."""
    told_by = json.dumps(["packed", skill, PACKED, _identity(world, skill), stamp("genepool.skills.compressing")])
    return world.scores_of(lambda: _packed(world, skill), told_by, [skill], "test")


def _packed(world: World, skill: str) -> Weights:
    base = world.sources["base"]
    changes = ModelDifference(world.sources[skill], base)
    budget = sum(2 * base.info(name).numel for name in changes.names() if changes.moves(name)) // PACKED
    with tempfile.TemporaryDirectory() as folder, progress.silenced():
        path = compress(changes, Path(folder) / "skill.safetensors", budget, {}).path
        weights = BaseWithChange(base, SkillFile(path, base))
        return TensorWeights(
            {name: weights.read(name) for name in weights.names()}, folder=base.folder, config=base.config
        )


def grafted(world: World, skill: str, density: float) -> Scores:
    """Test scores of the base with a share of a specialist's changed entries, by a mask learned on validation."""
    learned = [STEPS, LIMITS["valid"], stamp("genepool.skills.localising")]
    told_by = json.dumps(["grafted", skill, density, learned, _identity(world, skill)])
    return world.scores_of(lambda: _graft(world, skill, density), told_by, [skill], "test")


def _graft(world: World, skill: str, density: float) -> Weights:
    base = world.sources["base"]
    changes = ModelDifference(world.sources[skill], base)
    model = LanguageModel.load(base)
    task = world.tasks[skill]
    with torch_threads(1), progress.silenced():
        bench = MaskScorer(model, changes, encode_examples(model, task.examples("valid")[: LIMITS["valid"]], task))
        return Graft(changes, bench.learn(changes, steps=STEPS), density).applied()


def _identity(world: World, skill: str) -> list[str]:
    return [world.sources["base"].fingerprint(), world.sources[skill].fingerprint()]
