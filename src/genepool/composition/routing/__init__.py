"""Compositions that choose by input: a router reads a prompt, and its weights decide what answers it.

`router` learns which skill an input belongs to, `routed_model` answers by the weights that it gives, `twin_parts` are
what Twin-Merging mixes. All but `twin_parts` import torch, so composers import them inside their functions.
"""
