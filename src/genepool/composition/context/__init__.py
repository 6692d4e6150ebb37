"""Compositions whose skills weigh what the state of a prompt says: one weight for each skill in all layers.

`states` is what is read of a prompt, `context_network` what turns it into weights, `weighed_model` answers by them. All
import torch, so composers import them inside their functions.
"""
