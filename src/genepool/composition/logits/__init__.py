"""Composition in logit space: several frozen models read one prompt, and their next-token logits become one.

`formulas` and `dynamic` are the arithmetic, `rules` says which one a composition uses, `vocabulary_map` brings another
vocabulary's predictions onto the leading model's, `readers` and `fused_network` run the models side by side. Every
file but this one imports torch, so composers import them inside their functions.
"""
