"""Small real models with real skills, trained on the spot."""

from genepool.cli.options import Panel

PANEL = Panel.training
