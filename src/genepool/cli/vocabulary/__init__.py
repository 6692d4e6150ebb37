"""Give a model another tokenizer."""

from genepool.cli.options import Panel

PANEL = Panel.models
