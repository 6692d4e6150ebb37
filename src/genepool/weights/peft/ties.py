"""Adapters that change one of several tied tensors: a tied head, or a block that several layers share.

While it is trained, each module has the change of its own. PEFT's `merge_and_unload` adds them all to the one tensor
in place, which is another model; here the tensors are made ones of their own, and the config says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.errors import InputError
from genepool.weights.architecture import Architecture, architecture_of
from genepool.weights.peft.content import AdapterContent
from genepool.weights.ties import tied_names
from genepool.weights.weights import Weights

# By their last words PEFT tells an embedding and a head that `ensure_weight_tying` is about (its utils/constants.py).
_KNOWN_TO_PEFT = ("embed_tokens", "lm_head")


def untied_tensors(base: Weights, content: AdapterContent) -> dict[str, str]:
    """The tensors that the adapter makes ones of their own -> the tensor of the base that they were tied to.

    A head stays tied where the adapter trains neither of the two, replaces the same rows of both by
    `trainable_token_indices`, holds the same values for both, or holds an embedding that was saved and not trained.
    `ensure_weight_tying` alone does not say it: PEFT ties by it what it knows by name, and the file shows what was
    tied. What it then holds for the head is taken out of `content`.

    Blocks that layers share are untied wherever the adapter changes one of them.

    Raises:
        InputError: it changes one of several tensors that no config unties.
    """
    architecture = architecture_of(base.config)
    found: dict[str, str] = {}
    if architecture is None:
        heads = dict(base.aliases())
    else:
        tied = {**base.aliases(), **tied_names(base)}
        heads = {name: source for name, source in tied.items() if name in _heads(architecture)}
        found = _shared_blocks(architecture, tied, content)
        separable = _untied_with(architecture, base) if found else {}
        _refuse_inseparable(architecture, content, separable)
    for head, embedding in heads.items():
        own = _has_rows_of_its_own(content, head, embedding)
        if not own and not content.changes(head) and not content.changes(embedding):
            # Rows that are trained are those of both.
            content.forget(head)
        elif not own and _stay_tied(content, head, embedding):
            content.forget(head)
        else:
            found[head] = embedding
            _share_start(base, content, head, embedding)
    return found | _untied_with(architecture, base) if found and architecture is not None else found


def without_ties(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A config that says that nothing is tied to the embedding, wherever it said that something is."""
    config = config or {}
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and inner.get("tie_word_embeddings"):
        config = {**config, "text_config": {**inner, "tie_word_embeddings": False}}
    return {**config, "tie_word_embeddings": False}


def _stay_tied(content: AdapterContent, head: str, embedding: str) -> bool:
    names = content.replacements
    if head in names and embedding in names and not content.same(names[head], names[embedding]):
        return False
    adapted = content.is_adapted(head), content.is_adapted(embedding)
    if all(adapted):
        return (head in names) == (embedding in names) and _mirrored(content, head, embedding)
    if any(adapted) or (content.changes(head) != content.changes(embedding)):
        if _loads_tied(content):
            return _tie(content, head, embedding)
        if any(adapted):
            return False
    if head in names and embedding in names:
        return True
    # An embedding that is trained whole is in modules_to_save; another is there because the vocabulary was resized.
    word = embedding.removesuffix(".weight").rpartition(".")[2]
    trained = {name.rpartition(".")[2] for name in content.settings.names("modules_to_save")}
    return embedding in names and word not in trained


def _has_rows_of_its_own(content: AdapterContent, head: str, embedding: str) -> bool:
    """Whether rows of the head are trained that are not the embedding's: others, or others' values.

    PEFT then keeps two sets of rows over one tensor, which stands for neither.
    """
    ours, theirs = (content.tokens.get(name.removesuffix(".weight")) for name in (head, embedding))
    if ours is None:
        return False
    alike = theirs is not None and content.token_setting(head) == content.token_setting(embedding)
    return not (alike and theirs is not None and content.same(ours, theirs))


def _mirrored(content: AdapterContent, head: str, embedding: str) -> bool:
    """Whether the factors of a head are those of its embedding, each the other's transpose.

    The rows of a head that DoRA brings to trained lengths are the columns of no embedding.
    """
    ours, theirs = (content.modules[name.removesuffix(".weight")] for name in (head, embedding))
    if set(ours) != {"lora_A.weight", "lora_B.weight"} or set(theirs) != {"lora_embedding_A", "lora_embedding_B"}:
        return False
    scales = {content.settings.by_module("alpha_pattern", name.removesuffix(".weight")) for name in (head, embedding)}
    pairs = (("lora_A.weight", "lora_embedding_B"), ("lora_B.weight", "lora_embedding_A"))
    return len(scales) == 1 and all(content.same(ours[one], theirs[other], transposed=True) for one, other in pairs)


def _loads_tied(content: AdapterContent) -> bool:
    """Whether PEFT ties head and embedding when it loads the adapter: it knows both by two names alone."""
    if content.settings.get("ensure_weight_tying") is not True:
        return False
    if any(name.rpartition(".")[2] in _KNOWN_TO_PEFT for name in content.settings.names("modules_to_save")):
        return True
    targets = content.settings.get("target_modules")
    if isinstance(targets, str):
        return any(content.settings.matches("target_modules", targets, name, whole=True) for name in _KNOWN_TO_PEFT)
    return any(name.rpartition(".")[2] in _KNOWN_TO_PEFT for name in content.settings.names("target_modules"))


def _tie(content: AdapterContent, head: str, embedding: str) -> bool:
    """Both get what a file holds for one of them; factors do where they are the embedding's and no more than that."""
    if not content.changes(embedding) and not content.is_adapted(head):
        content.move(head, embedding)
        return True
    parts = content.modules.get(embedding.removesuffix(".weight"), {})
    if content.is_adapted(head) or any("magnitude" in part for part in parts):
        one, other = (head, embedding) if content.is_adapted(head) else (embedding, head)
        raise InputError(
            f"holds what changes {one} and not what changes {other}, which ensure_weight_tying trains with it",
            where=content.file.path,
            fix="Save the adapter again with PEFT",
        )
    return True


def _share_start(base: Weights, content: AdapterContent, head: str, embedding: str) -> None:
    """What one of the two started from, in a vocabulary that was resized, the other one was as well."""
    for one, other in ((head, embedding), (embedding, head)):
        stored = content.replacements.get(one)
        if stored is None or one not in content.starts or content.changes(other):
            continue
        if content.file.infos[stored].shape != base.info(embedding).shape:
            content.replacements[other] = stored


def _untied_with(architecture: Architecture, base: Weights) -> dict[str, str]:
    """Everything that is no longer tied together with the head, such as the bias of a masked language model's."""
    untied = architecture_of(without_ties(base.config))
    left = {} if untied is None else untied.ties
    tied = {**base.aliases(), **tied_names(base)}
    return {name: source for name, source in tied.items() if name in architecture.ties and name not in left}


def _is_embedding(architecture: Architecture, name: str) -> bool:
    """Whether one of the modules that a tied tensor belongs to is an embedding."""
    modules = (one.rpartition(".")[0] for one in architecture.tied_with(name))
    return any(architecture.modules.get(module) == "embedding" for module in modules)


def _shared_blocks(architecture: Architecture, tied: Mapping[str, str], content: AdapterContent) -> dict[str, str]:
    """The tied tensors apart from embeddings and heads that the adapter makes different -> what they are tied to."""
    blocks = {name: source for name, source in tied.items() if name in architecture.ties}
    blocks = {name: source for name, source in blocks.items() if not _is_embedding(architecture, name)}
    return {name: source for name, source in blocks.items() if _differ(content, name, source)}


def _heads(architecture: Architecture) -> set[str]:
    """The weights of linear layers that are tied to an embedding; some classes do not say which is the head."""
    linear = {f"{module}.weight" for module, kind in architecture.modules.items() if kind == "linear"}
    return {name for name in architecture.ties if name in linear and _is_embedding(architecture, name)}


def _differ(content: AdapterContent, name: str, other: str) -> bool:
    """Whether two tied tensors are no longer equal with the adapter's change of each."""
    stored = [content.replacements[one] for one in (name, other) if one in content.replacements]
    if content.is_adapted(name) or content.is_adapted(other) or len(stored) == 1:
        return True
    return bool(stored) and not content.same(*stored)


def _refuse_inseparable(architecture: Architecture, content: AdapterContent, separable: Mapping[str, str]) -> None:
    """Refuses a change of one of several tensors that no config can make two."""
    heads = _heads(architecture)
    for name in (*content.replacements, *(f"{module}.weight" for module in content.modules)):
        group = architecture.tied_with(name)
        others = [one for one in group if one != name]
        if _is_embedding(architecture, name):
            others = [] if name in heads or len(group) < 3 else [one for one in others if one not in heads]
        elif not separable.keys().isdisjoint(group):
            continue
        else:
            others = [one for one in others if _differ(content, name, one)]
        if others:
            raise InputError(
                f"changes {name}, which {architecture.name} ties to {others[0]}: a saved model has the two as one "
                "tensor, and the change is trained for one of them",
                where=content.file.path,
                fix="Train an adapter that leaves that module out by exclude_modules",
            )
