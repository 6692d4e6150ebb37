"""Vocabularies that were resized before an adapter was trained: it has more or fewer rows than the base."""

from __future__ import annotations

from genepool.errors import InputError
from genepool.weights.peft.content import AdapterContent
from genepool.weights.vocabulary.rows import vocabulary_rows
from genepool.weights.weights import Weights

# Parts of an adapter with one row, or column, per token -> which.
_PER_TOKEN = {"lora_embedding_A": -1, "hira_embedding_A": -1, "lora_B.weight": 0, "hira_B": 0}


def resized_rows(base: Weights, content: AdapterContent) -> dict[str, int]:
    """The base's tensors with one row per token -> how many rows the adapter has for them; empty if none differ.

    Raises:
        InputError: the adapter does not hold all of them with their new rows.
    """
    wanted = {f"{module}.weight": rows for module, rows in _adapted_rows(content).items()}
    outside = [name for name in (*content.replacements, *wanted) if not any(w.isdecimal() for w in name.split("."))]
    if not outside:
        return {}
    words = vocabulary_rows(base)
    given = {}
    for target, stored in content.replacements.items():
        name = base.aliases().get(target, target)
        shape = content.file.infos[stored].shape
        if name in words and shape[1:] == base.info(name).shape[1:]:
            given[name] = shape[0]
    for target, rows in wanted.items():
        name = base.aliases().get(target, target)
        if name in words and given.get(name, words[name]) != rows:
            raise InputError(
                f"was trained with {rows} tokens where {base.name} has {words[name]}, and does not hold {name} with "
                "as many rows",
                where=content.file.path,
                fix="Save it again with save_pretrained(..., save_embedding_layers=True), or resize the base as it was "
                "for training (resize_token_embeddings, save_pretrained) and name the result",
            )
    changed = {name: rows for name, rows in given.items() if rows != words[name]}
    if not changed:
        return {}
    name, rows = next(iter(changed.items()))
    # What was cut off is the same for a tensor that the adapter does not hold; what was added is not known.
    other = next((one for one in words if given.get(one, min(rows, words[one])) != rows), None)
    if other is not None:
        raise InputError(
            f"was trained with {rows} tokens, and holds {name} with as many rows but not {other}, which has "
            f"{given.get(other, words[other])} in the base",
            where=content.file.path,
            fix="Resize the base (resize_token_embeddings, save_pretrained) as it was for training and name the result",
        )
    return dict.fromkeys(words, rows)


def _adapted_rows(content: AdapterContent) -> dict[str, int]:
    """Modules outside the layers -> for how many tokens the adapter's own tensors are, if they are for tokens."""
    found = {}
    for module, parts in content.modules.items():
        if any(word.isdecimal() for word in module.split(".")):
            continue
        for part, stored in parts.items():
            shape = content.file.infos[stored].shape
            if part in _PER_TOKEN and shape:
                found[module] = shape[_PER_TOKEN[part]]
    return found
