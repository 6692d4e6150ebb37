"""Giving a model the tokenizer of another one: rows of common tokens move along, rows of new ones are estimated.

`matching` says which tokens two tokenizers have in common, `estimators` has one file for each way to estimate a row,
and `transplanting` makes the model. After mergekit-tokensurgeon (Goddard and Fernandes Neto 2025, arXiv:2506.06607).
"""
