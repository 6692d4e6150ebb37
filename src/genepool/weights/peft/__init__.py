"""PEFT LoRA adapters in and out: the reader, the writer, and in which forms an adapter can hold a change.

`adapter` reads one as a `Change`; `writer` writes any `Change` as one. Used by `genepool.weights` to open what users
name, and by merging, skills and studies to write adapters.
"""
