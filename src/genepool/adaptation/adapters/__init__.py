"""The stream adapters: one file each, named as the command line calls it and found by being there."""
