"""Kinds of adapters whose effect is no change of the base's weights, with the reason for each."""

from __future__ import annotations

from collections.abc import Mapping

WAY_OUT = "Use it with PEFT beside the model it was trained on, or distil it: train an adapter on its answers"
_PROMPT = "it puts trained vectors before every input and leaves the weights as they are"
_PREFIX = "it puts trained keys and values into every attention layer and leaves the weights as they are"
REFUSED: Mapping[str, str] = {
    "ADAMSS": "which rows belong to which subspace is not in its file, PEFT finds it again by clustering the base",
    "ADAPTION_PROMPT": "it adds gated attention to trained vectors, which no weight can stand for",
    "CARTRIDGE": _PREFIX,
    "CPT": _PROMPT,
    "LILY": "it mixes its factors by a router that looks at every input",
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "POLY": "it mixes its factors by the task that is named with every input",
    "P_TUNING": _PROMPT,
    "SHADOW": "it runs a second, smaller network beside the model",
    "XLORA": "it mixes other adapters by a network that looks at every input",
}
