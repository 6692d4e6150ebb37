"""Adaptive decoding: a head on the last hidden state chooses the temperature at which a frozen model draws.

`tempered` decodes with a head, `preferences` trains one. Both import torch, so composers import them inside their
functions.
"""
