"""Keep skills in a library: find, compare, trace and share them."""

from genepool.cli.options import Panel

PANEL = Panel.skills
