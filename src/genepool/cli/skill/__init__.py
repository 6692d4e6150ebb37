"""Extract a skill from a fine-tune, store it in few bytes, edit it, and apply it to its base."""

from genepool.cli.options import Panel

PANEL = Panel.skills
