"""The composers: one file each, found by being there. See `genepool.composition.composer`."""
