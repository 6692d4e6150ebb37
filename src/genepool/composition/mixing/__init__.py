"""Many skills of one base in one pass: low-rank factors run beside the base's linear layers, weighed line by line.

`layer_factors` is the arithmetic of one layer, `mixtures` says how much of which skill a line gets, `attached` puts
both into a network, `listeners` tell it whose lines a pass has. `shared_network` answers for all skills of a base:
prompts that each name a skill (`requests`, `requested_model`), and models that are evaluated together (`evaluation`).
"""
