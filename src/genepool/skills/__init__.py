"""Skills: what a fine-tune learned, held in a file of its own. The files are read by `genepool.weights`."""

from genepool.skills.changes import Changes, Difference, Scaled, Sum, open_changes
from genepool.skills.forms import FORMS, PACKINGS, Form
from genepool.skills.header import Header
from genepool.skills.making import apply_skills, extract_skill, store
from genepool.skills.peft_folder import write_peft
from genepool.skills.selected import Dropped, Largest
from genepool.skills.writing import Written, write_skill

__all__ = [
    "FORMS",
    "PACKINGS",
    "Changes",
    "Difference",
    "Dropped",
    "Form",
    "Header",
    "Largest",
    "Scaled",
    "Sum",
    "Written",
    "apply_skills",
    "extract_skill",
    "open_changes",
    "store",
    "write_peft",
    "write_skill",
]
