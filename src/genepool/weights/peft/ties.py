"""Heads that are tied to their embedding, and adapters that train one of the two: PEFT makes them two tensors then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.errors import InputError
from genepool.weights.architecture import Architecture, architecture_of
from genepool.weights.peft.content import AdapterContent
from genepool.weights.ties import tied_names
from genepool.weights.weights import Weights


def untied_heads(base: Weights, content: AdapterContent) -> dict[str, str]:
    """The tensors that the adapter makes ones of their own -> the tensor of the base that they were tied to.

    A head stays tied where the adapter trains neither of the two, replaces rows by `trainable_token_indices`, says
    `ensure_weight_tying`, holds the same values for both, or holds an embedding that was saved and not trained. What
    it then holds for the head is taken out of `content`.

    Raises:
        InputError: it changes one of several tensors that the architecture always ties.
    """
    architecture = architecture_of(base.config)
    if architecture is None:
        heads = dict(base.aliases())
    else:
        _refuse_inseparable(architecture, content)
        head = f"{architecture.output_embeddings}.weight"
        tied = {**base.aliases(), **tied_names(base)}
        heads = {name: source for name, source in tied.items() if name == head and name in architecture.ties}
    found: dict[str, str] = {}
    for head, embedding in heads.items():
        if not content.changes(head) and not content.changes(embedding):
            # Rows that are trained are those of both.
            content.forget(head)
        elif _stay_tied(content, head, embedding):
            content.forget(head)
        else:
            found[head] = embedding
            _share_start(base, content, head, embedding)
    if found and architecture is not None:
        return found | _untied_with(architecture, base)
    return found


def without_ties(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A config that says that nothing is tied to the embedding, wherever it said that something is."""
    config = config or {}
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and inner.get("tie_word_embeddings"):
        config = {**config, "text_config": {**inner, "tie_word_embeddings": False}}
    return {**config, "tie_word_embeddings": False}


def _stay_tied(content: AdapterContent, head: str, embedding: str) -> bool:
    if content.settings.get("ensure_weight_tying") is True:
        if not content.changes(embedding):
            content.move(head, embedding)
        return True
    names = content.replacements
    only_replaced = not content.is_adapted(head) and not content.is_adapted(embedding)
    if head in names and embedding in names:
        return only_replaced and content.same(names[head], names[embedding])
    # An embedding that is trained whole is in modules_to_save; another is there because the vocabulary was resized.
    word = embedding.removesuffix(".weight").rpartition(".")[2]
    trained = {name.rpartition(".")[2] for name in content.settings.names("modules_to_save")}
    return only_replaced and embedding in names and word not in trained


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


def _refuse_inseparable(architecture: Architecture, content: AdapterContent) -> None:
    """Refuses a change of one of several tensors that no config can make two."""
    if content.settings.get("ensure_weight_tying") is True:
        return
    head = f"{architecture.output_embeddings}.weight"
    for name in (*content.replacements, *(f"{module}.weight" for module in content.modules)):
        others = [one for one in architecture.tied_with(name) if one not in (name, head)]
        if name != head and others and len(architecture.tied_with(name)) > 2:
            raise InputError(
                f"changes {name}, which {architecture.name} ties to {others[0]}: PEFT changes one of the two, and a "
                "saved model has them as one",
                where=content.file.path,
                fix="Train an adapter that leaves that module out, or with ensure_weight_tying=True",
            )
