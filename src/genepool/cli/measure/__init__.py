"""Measure more than a mean: transfer, complementary knowledge, combined skills, forgetting, prediction."""

from genepool.cli.options import Panel

PANEL = Panel.measuring
