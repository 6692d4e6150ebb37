"""The stages that a round of a loop is made of: one file each, found by being there."""
