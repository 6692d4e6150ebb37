"""Skills: what a fine-tune learned, held in a file of its own. The files are read by `genepool.weights`."""

from genepool.skills.activation_energy import input_energies
from genepool.skills.compressing import ByteBudget, compress
from genepool.skills.create import apply_skills, extract_skill, model_of
from genepool.skills.localising import Localised, MaskScorer, smallest
from genepool.skills.masks import Dare, Graft, TopK
from genepool.skills.peft_folder import write_peft
from genepool.skills.skill import Skill

__all__ = [
    "ByteBudget",
    "Dare",
    "Graft",
    "Localised",
    "MaskScorer",
    "Skill",
    "TopK",
    "apply_skills",
    "compress",
    "extract_skill",
    "input_energies",
    "model_of",
    "smallest",
    "write_peft",
]
