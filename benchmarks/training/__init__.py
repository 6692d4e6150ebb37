"""Training beside TRL: steps a second and memory of `genepool train` and of TRL's trainers on the same model and data.

`python -m benchmarks.training` runs both in turn, each in a process of its own. Needs TRL, a development dependency.
"""
