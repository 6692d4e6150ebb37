"""Adapters that `genepool train` learned task after task, written as the composition that retrieves among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genepool.composition.composer import make_composer
from genepool.composition.composition import Saved
from genepool.composition.saved_model import found_from_anywhere, save_composition
from genepool.composition.skill_set import SkillSet

if TYPE_CHECKING:
    from genepool.training.continual.retrieved import PoolOnBase


def write_learned_pool(learned: PoolOnBase, out: Path) -> Path:
    """Writes the composition, replacing what is there, whole or not at all.

    Args:
        learned: the adapters and the model that they stand beside.
        out: the folder.
    """
    pool = learned.pool
    reference = "+".join(map(found_from_anywhere, learned.reference.split("+")))
    layers = [name.removeprefix("up/") for name in pool.tensors if name.startswith("up/")]
    composer = make_composer(pool.composer, pool.options, "options")
    saved = Saved(
        SkillSet(learned.base, reference, ()), pool.tensors, {"layers": layers, "tasks": learned.tasks}, learned.record
    )
    return save_composition(composer.restore(saved), out, overwrite=True)
