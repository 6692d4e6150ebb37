"""A check that costs next to nothing and saves an afternoon: do these models share an origin?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genepool.errors import InputError
from genepool.merging.layout import Layout
from genepool.weights import Weights

# Fine-tunes stay within a hair of their base (cosine above 0.99); unrelated models of one architecture are
# orthogonal. Far-trained models, such as continued pre-training, still stay well above this.
_UNRELATED_COSINE = 0.3
_PROBE_ELEMENTS = 1 << 12


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
