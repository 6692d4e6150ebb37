"""Export outcomes to a JSONL file, or import them from one."""

from genepool.cli.options import Panel

PANEL = Panel.measuring
