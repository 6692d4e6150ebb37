"""Export outcomes to a JSONL file, import them from one."""

from genepool.cli.options import Panel

PANEL = Panel.measuring
