"""Steering vectors: a constant that is added to the hidden states behind a layer while a model answers.

`layers` finds a network's layers and sees what they give, `extraction` makes vectors of examples, and
`steered_network` adds them. These import torch, so composers import them inside their functions.
"""
