"""Train small real models with real skills, to try genepool on."""

from genepool.cli.options import Panel

PANEL = Panel.training
