"""Extract a skill from a fine-tune, store it small, work on it, apply it to its base."""

from genepool.cli.options import Panel

PANEL = Panel.skills
