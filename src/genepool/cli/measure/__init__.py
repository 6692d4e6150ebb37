"""What outcomes tell beyond a mean: transfer, complementary knowledge, mixes of skills, forgetting."""

from genepool.cli.options import Panel

PANEL = Panel.measuring
