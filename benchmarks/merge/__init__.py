"""Merging synthetic checkpoints, against the disk's floor and against mergekit, whole processes in turn.

`python -m benchmarks.merge` makes the checkpoints (`checkpoints`), decides what is compared (`rows`), runs it
(`side_by_side`, `scaling`) and prints tables. Nothing here is imported by genepool.
"""
