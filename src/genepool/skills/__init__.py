"""Skills: what a fine-tune learned, held in a file of its own. The files are read by `genepool.weights`."""

from genepool.skills.calibrating import input_energies
from genepool.skills.changes import AdapterChanges, Changes, Difference, Scaled, Sum, open_changes
from genepool.skills.compressing import Budget, compress
from genepool.skills.forms import FORMS, PACKINGS, Form
from genepool.skills.header import Header
from genepool.skills.localising import Bench, Graft, Localised, smallest
from genepool.skills.making import apply_skills, extract_skill, model_of, store
from genepool.skills.peft_folder import write_peft
from genepool.skills.selected import Dropped, Largest
from genepool.skills.writing import Written, write_skill

__all__ = [
    "FORMS",
    "PACKINGS",
    "AdapterChanges",
    "Bench",
    "Budget",
    "Changes",
    "Difference",
    "Dropped",
    "Form",
    "Graft",
    "Header",
    "Largest",
    "Localised",
    "Scaled",
    "Sum",
    "Written",
    "apply_skills",
    "compress",
    "extract_skill",
    "input_energies",
    "model_of",
    "open_changes",
    "smallest",
    "store",
    "write_peft",
    "write_skill",
]
