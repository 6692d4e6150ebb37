"""Skills: what a fine-tune learned, held in a file of its own. Reading them is done by `genepool.weights`."""

from genepool.skills.dense import extract_skill

__all__ = ["extract_skill"]
