"""What part each tensor plays, told from names and shapes alone.

No per-architecture tables: layers are the numbered siblings that repeat, embeddings and heads are the matrices
outside them with a vocabulary side, norms are vectors that say so. Used by recipes (filters by role, gradients
over layers), by the study's layer groups, and by the handling of tied heads.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from genepool.weights.tensor_info import TensorInfo

Part = Literal["attention", "mlp", "norm", "embedding", "head", "other"]
PARTS: tuple[Part, ...] = ("attention", "mlp", "norm", "embedding", "head", "other")

_ATTENTION = re.compile(r"attn|attention|^(q|k|v|o|qkv|query|key|value|c_attn|out)(_?proj)?$", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|ffn|feed_?forward|expert|dense(relu|_h_to_4h|_4h_to_h)|^(gate|up|down)_proj$|^(fc|w|wi|wo|c_fc)_?\d*$"
    r"|^(intermediate|output|lin\d|c_proj)$",
    re.IGNORECASE,
)
_NORM = re.compile(r"norm|^ln(_?\w+)?$|layernorm", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|^(wte|wpe|shared)$|tok_?embeddings", re.IGNORECASE)
_HEAD = re.compile(r"^(lm_head|embed_out|output|head|score|classifier|cls|qa_outputs|lm_head\w*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Role:
    """The part a tensor plays.

    Attributes:
        part: attention, mlp, norm, embedding, head or other.
        layer: index of the layer it belongs to, counted from 0; None outside the layers.
        stack: the dotted name of the layer list ("model.layers", "encoder.block"); empty outside the layers.
    """

    part: Part
    layer: int | None = None
    stack: str = ""


def infer_roles(infos: Mapping[str, TensorInfo]) -> dict[str, Role]:
    """The role of every tensor of one model.

    The layer index is the first number in a name whose prefix has several numbered children or repeats in the
    model; numbers further in (experts, sub-blocks) are not layers.
    """
    stacks = _layer_stacks(infos)
    roles: dict[str, Role] = {}
    for name, info in infos.items():
        stack, layer, rest = _split_layer(name, stacks)
        roles[name] = Role(_part(rest.split("."), info, inside=layer is not None), layer, stack)
    return roles


def layer_counts(roles: Mapping[str, Role]) -> dict[str, int]:
    """Number of layers of each stack: one more than the highest index seen."""
    counts: dict[str, int] = {}
    for role in roles.values():
        if role.layer is not None:
            counts[role.stack] = max(counts.get(role.stack, 0), role.layer + 1)
    return counts


def by_depth(names: Iterable[str]) -> list[str]:
    """Names in the order of depth: embeddings, the layers of each stack by their number, what comes after them, heads.

    Args:
        names: of tensors, or of parts of them ("NAME:A").
    """
    given = list(names)
    roles = infer_roles({name.partition(":")[0]: TensorInfo((1, 1), "F32") for name in given})
    found = {name: roles[name.partition(":")[0]] for name in given}
    stacks = list(dict.fromkeys(role.stack for role in found.values()))

    def depth(name: str) -> tuple[int, int, int]:
        role = found[name]
        if role.layer is not None:
            return 1, stacks.index(role.stack), role.layer
        return {"embedding": 0, "head": 3}.get(role.part, 2), 0, 0

    return sorted(given, key=depth)


def rename_layer(name: str, role: Role, layer: int) -> str:
    """The name the same tensor has in another layer of its stack."""
    assert role.layer is not None
    head = f"{role.stack}.{role.layer}" if role.stack else str(role.layer)
    return (f"{role.stack}.{layer}" if role.stack else str(layer)) + name[len(head) :]


def _layer_stacks(names: Iterable[str]) -> set[str]:
    """Dotted prefixes followed by a number, taking only the outermost number of each name."""
    children: dict[str, Counter[int]] = {}
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdecimal():
                children.setdefault(".".join(parts[:i]), Counter())[int(part)] += 1
                break
    # A list of modules that each hold a single weight is a plain Sequential, not a stack of layers.
    return {prefix for prefix, seen in children.items() if max(seen.values()) > 2 or len(seen) > 2}


def _split_layer(name: str, stacks: set[str]) -> tuple[str, int | None, str]:
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if part.isdecimal():
            prefix = ".".join(parts[:i])
            if prefix in stacks:
                return prefix, int(part), ".".join(parts[i + 1 :])
            return "", None, name
    return "", None, name


def _part(path: list[str], info: TensorInfo, inside: bool) -> Part:
    modules = path[:-1] or path
    leaf = modules[-1]
    # The innermost module that speaks decides; a norm inside an attention block is a norm.
    if _NORM.search(leaf) and len(info.shape) <= 1:
        return "norm"
    if not inside:
        # Heads first: GPT-NeoX calls its head embed_out.
        if any(_HEAD.match(module) for module in modules):
            return "head"
        if any(_EMBEDDING.search(module) for module in modules):
            return "embedding"
    if any(_ATTENTION.search(module) for module in modules):
        return "attention"
    if any(_MLP.search(module) for module in modules):
        return "mlp"
    if any(_NORM.search(module) for module in modules):
        return "norm"
    return "other"
