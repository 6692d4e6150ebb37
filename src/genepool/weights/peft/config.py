"""adapter_config.json of an adapter that genepool writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from genepool.weights.class_head import BaseWithHead
from genepool.weights.peft.carried_head import task_of_head
from genepool.weights.peft.experts import target_words
from genepool.weights.weights import Weights


def adapter_config(
    base: Weights,
    reference: tuple[str, str | None],
    factored: Mapping[str, tuple[int, float]],
    *,
    experts: Collection[str],
    whole: Collection[str],
    biases: bool,
    transposed: bool,
) -> dict[str, Any]:
    """adapter_config.json, as PEFT writes it.

    Args:
        base: what the adapter belongs to.
        reference: how PEFT finds the base again: a path or hub name, and a revision.
        factored: module, or parameter of experts -> (rank, alpha) of its factors; at least one.
        experts: those of them that are parameters.
        whole: modules that go along whole.
        biases: whether the base's biases go along.
        transposed: whether the factored layers store their weights as (in, out).
    """
    rank = max(rank for rank, _ in factored.values())
    counts = Counter(alpha for of, alpha in factored.values() if of == rank)
    alpha = counts.most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": _task_type(base),
        "base_model_name_or_path": reference[0],
        "revision": reference[1],
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": {module: of for module, (of, _) in factored.items() if of != rank},
        "alpha_pattern": {module: of for module, (_, of) in factored.items() if of != alpha},
        "target_modules": _targets([name for name in factored if name not in experts], base),
        **({"target_parameters": target_words(base.config, experts)} if experts else {}),
        "modules_to_save": sorted(whole) or None,
        "bias": "all" if biases else "none",
        "fan_in_fan_out": transposed,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _targets(factored: Collection[str], base: Weights) -> list[str]:
    """The last words of the adapted modules' names where those mean no others, else their whole names."""
    others = {name.rpartition(".")[0] for name in (*base.names(), *base.aliases())} - set(factored)
    ambiguous = {module.rpartition(".")[2] for module in others}
    leaves = {module: module.rpartition(".")[2] for module in factored}
    return sorted({module if leaf in ambiguous else leaf for module, leaf in leaves.items()})


def _task_type(base: Weights) -> str | None:
    """PEFT's word for what a model is for, where the class that loads it follows from that."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if isinstance(base, BaseWithHead):
        return task_of_head(base.head.architecture)
    names = (base.config or {}).get("architectures") or []
    return "CAUSAL_LM" if names and names[0] in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() else None
