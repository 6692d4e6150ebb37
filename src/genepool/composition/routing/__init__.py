"""Compositions that choose by input: a router reads a prompt, and its weights decide what answers it.

`router` learns which skill an input belongs to, `routed_model` answers by the weights that it gives, `twin_parts` are
what Twin-Merging mixes. `nearest_means` are the two cheap routers and `capability_ranker` chooses by what models can
do; `specialists_model` sends each prompt to one whole model, `specialists` is what composers of such share, and
`task_inputs` what they learn from. All but `twin_parts` and `specialists` import torch, so composers import them inside
their functions.
"""
