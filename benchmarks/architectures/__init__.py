"""Sweeps the classes of transformers' `AutoModel*` mappings.

Is the merge of one model that model, and does an adapter merge as PEFT merges it? `python -m benchmarks.architectures`;
the table is in docs/reference/architectures.md.
"""
