"""Checks that cost next to nothing and save an afternoon: do these models share a vocabulary and an origin?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genepool.errors import InputError
from genepool.merging.layout import Layout
from genepool.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

# Fine-tunes stay within a hair of their base (cosine above 0.99); unrelated models of one architecture are
# orthogonal. Far-trained models, such as continued pre-training, still stay well above this.
_UNRELATED_COSINE = 0.3
_PROBE_ELEMENTS = 1 << 12


def check_vocabularies(sources: Mapping[str, Weights], where: str) -> None:
    """Refuses models whose tokenizers give the same token different ids.

    Models without a readable `tokenizer.json` are not compared; tokens that only one model has are no conflict.

    Raises:
        InputError: naming the first token and both ids.
    """
    seen: tuple[str, bytes, dict[str, int]] | None = None
    for name, weights in sources.items():
        path = weights.folder / "tokenizer.json" if weights.folder else None
        if path is None or not path.is_file():
            continue
        data = path.read_bytes()
        if seen is None:
            seen = (name, data, _vocabulary(path, data))
        elif data != seen[1]:
            ours, theirs = seen[2], _vocabulary(path, data)
            for token, number in ours.items():
                other = theirs.get(token, number)
                if other != number:
                    raise InputError(
                        f"the vocabularies differ: token {token!r} is {number} in {seen[0]}, {other} in {name}",
                        where=where,
                        fix="Merge models of one vocabulary, or say `vocabulary: unchecked`",
                    )


def _vocabulary(path: Path, data: bytes) -> dict[str, int]:
    try:
        content = json.loads(data)
        vocabulary = content["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((t[0], i) for i, t in enumerate(vocabulary))
        added = ((entry["content"], entry["id"]) for entry in content.get("added_tokens", []))
        return {**dict(pairs), **dict(added)}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"not a readable tokenizer ({error!r})", where=path, fix="Fetch it again") from None


def check_origin(layout: Layout, sources: Mapping[str, Weights], where: str) -> None:
    """Refuses models that were plainly not fine-tuned from the base.

    One matrix from the middle of the stack is compared: related models point the same way, unrelated ones are
    orthogonal. Small matrices say nothing and are not compared.

    Raises:
        InputError: naming the model, the tensor and the cosine.
    """
    probe = _probe(layout)
    if probe is None:
        return
    output = layout.outputs[probe]
    assert output.base is not None
    base = sources[output.base.model].read(output.base.tensor).float().reshape(-1)
    for given in output.inputs:
        if given.model == output.base.model:
            continue
        other = sources[given.model].read(given.tensor).float().reshape(-1)
        scale = float(base.norm() * other.norm())
        if scale == 0 or scale != scale:
            continue
        cosine = float(base @ other) / scale
        if abs(cosine) < _UNRELATED_COSINE:
            raise InputError(
                f"{given.model} was not fine-tuned from {output.base.model} (cosine {cosine:.2f} in {given.tensor})",
                where=where,
                fix="Name the base that all models come from, or merge without a base (linear, slerp)",
            )


def _probe(layout: Layout) -> int | None:
    candidates: Sequence[int] = [
        i
        for i, out in enumerate(layout.outputs)
        if out.base is not None
        and out.info.is_float
        and len(out.info.shape) == 2
        and out.role.part in ("attention", "mlp")
        and out.info.numel >= _PROBE_ELEMENTS
    ]
    return candidates[len(candidates) // 2] if candidates else None
