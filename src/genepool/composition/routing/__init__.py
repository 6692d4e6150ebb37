"""Compositions that choose by input: a router's weights decide what answers a prompt, or each of its tokens.

By prompt: `router` learns which skill an input belongs to, `routed_model` answers by the weights that it gives,
`twin_parts` are what Twin-Merging mixes. `nearest_means` are the two cheap routers and `capability_ranker` chooses by
what models can do; `specialists_model` sends each prompt to one whole model, `specialists` is what composers of such
share, and `task_inputs` what they learn from. By token: `adapter_mixture` are LoRA skills beside the base,
`arrow_router`, `layer_gates` and `token_scores` weigh them, `hooked_model` and `two_pass` answer, `fitted` trains. By
task: `inventory` has the modules that tasks share.

All but `twin_parts`, `specialists`, `adapter_composition` and `router_options` import torch, so composers import them
inside their functions.
"""
