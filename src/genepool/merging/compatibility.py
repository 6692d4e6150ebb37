"""A check that costs next to nothing and saves an afternoon: do these models share an origin?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genepool.errors import InputError
from genepool.merging.outputs import Layout
from genepool.weights import Role, TensorInfo, Weights
from genepool.weights.float_rows import read_float32

# Fine-tunes stay within a hair of their base (cosine above 0.99); unrelated models of one architecture are
# orthogonal. Far-trained models, such as continued pre-training, still stay well above this.
_UNRELATED_COSINE = 0.3
_PROBE_ELEMENTS = 1 << 12
_MOST_ENTRIES = 1 << 20


def check_origin(layout: Layout, sources: Mapping[str, Weights], where: str) -> None:
    """Refuses models that were plainly not fine-tuned from the base.

    Raises:
        InputError: naming the model, the tensor and the cosine.
    """
    based = [out for out in layout.outputs if out.base is not None]
    probe = choose_probe([(out.info, out.role) for out in based])
    if probe is None:
        return
    base = based[probe].base
    assert base is not None
    for given in based[probe].inputs:
        cosine = origin_cosine(sources[base.model], base.tensor, sources[given.model], given.tensor)
        if given.model != base.model and is_unrelated(cosine):
            raise InputError(
                f"{given.model} was not fine-tuned from {base.model} (cosine {cosine:.2f} in {given.tensor})",
                where=where,
                fix="Name the base that all models come from, or merge without a base (linear, slerp)",
            )


def choose_probe(tensors: Sequence[tuple[TensorInfo, Role]]) -> int | None:
    """Which tensor tells where a model comes from: a matrix from the middle of the stack.

    Small matrices say nothing; None when there are no others.
    """
    candidates = [
        i
        for i, (info, role) in enumerate(tensors)
        if info.is_float
        and len(info.shape) == 2
        and role.part in ("attention", "mlp")
        and info.numel >= _PROBE_ELEMENTS
    ]
    return candidates[len(candidates) // 2] if candidates else None


def origin_cosine(base: Weights, base_tensor: str, model: Weights, tensor: str) -> float | None:
    """The cosine between a model's tensor and the base's; None when one of them is zero or not finite."""
    import numpy as np

    rows, columns = base.info(base_tensor).matrix
    # A million entries say it as clearly as all of them.
    rows = min(rows, max(1, _MOST_ENTRIES // max(columns, 1)))
    ours, theirs = np.empty((2, rows * columns), np.float32)
    read_float32(base, base_tensor, 0, rows, ours)
    read_float32(model, tensor, 0, rows, theirs)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = float(np.linalg.norm(ours)) * float(np.linalg.norm(theirs))
        product = float(ours @ theirs)
    return product / scale if np.isfinite(scale) and scale else None


def is_unrelated(cosine: float | None) -> bool:
    """Whether a model with this cosine to its base was plainly not fine-tuned from it."""
    return cosine is not None and abs(cosine) < _UNRELATED_COSINE
