"""Every merge method a second time, from the formulas of the papers: plain numpy in float64, whole tensors at once.

Nothing here is fast, streams or shares a line with the package. Each function takes the base, the models and the
parameters of the recipe, and returns the merged tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Tensors = dict[str, Array]
Formula = Callable[[Tensors, list[Tensors], dict[str, Any]], Tensors]


def _vectors(base: Tensors, models: list[Tensors]) -> tuple[list[str], Array, Array]:
    """Names in order; the base as one vector; the task vectors, `(models, entries)`."""
    names = list(base)
    flat = np.concatenate([base[name].ravel() for name in names])
    return names, flat, np.stack([np.concatenate([m[name].ravel() for name in names]) for m in models]) - flat


def _whole(merge: Callable[[Array, dict[str, Any]], Array]) -> Formula:
    """A formula over the whole task vectors, `(models, entries) -> (entries,)`."""

    def run(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
        names, flat, deltas = _vectors(base, models)
        merged, at, result = flat + merge(deltas, p), 0, {}
        for name in names:
            result[name] = merged[at : at + base[name].size].reshape(base[name].shape)
            at += base[name].size
        return result

    return run


def _each(merge: Callable[[Array, dict[str, Any]], Array]) -> Formula:
    """A formula over the task vectors of one tensor, `(models, ...) -> (...)`."""

    def run(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
        return {name: b + merge(np.stack([m[name] for m in models]) - b, p) for name, b in base.items()}

    return run


def _values(merge: Callable[[Array, Array, dict[str, Any]], Array]) -> Formula:
    """A formula over the values of one tensor: `(base, (models, ...))`."""

    def run(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
        return {name: merge(b, np.stack([m[name] for m in models]), p) for name, b in base.items()}

    return run


def _matrices(
    merge: Callable[[Array, dict[str, Any]], Array], only: tuple[str, ...] = (), rest: float = 1.0
) -> Formula:
    """A formula over the task vectors of one matrix; `rest` times the mean of the others'."""

    def run(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
        result = {}
        for name, b in base.items():
            deltas = np.stack([m[name] for m in models]) - b
            treated = b.ndim == 2 and (not only or any(part in name for part in only))
            result[name] = b + (merge(deltas, p) if treated else rest * deltas.mean(0))
        return result

    return run


def _count(share: float, n: int) -> int:
    return 0 if share == 0 else max(1, int(share * n))


def _first_largest(sizes: Array, count: int) -> Array:
    """Which entries are the `count` largest, of equal ones the first."""
    kept = np.zeros(sizes.size, dtype=bool)
    kept[np.argsort(-sizes.ravel(), kind="stable")[:count]] = True
    return kept.reshape(sizes.shape)


def _agreeing_mean(deltas: Array, positive_zero: bool) -> Array:
    """The mean over the entries that have the sign of the sum; of a sum of zero, the majority's sign or plus."""
    signs = np.sign(deltas.sum(0))
    majority = 1.0 if positive_zero or signs.sum() >= 0 else -1.0
    agree = (np.sign(deltas) == np.where(signs == 0, majority, signs)) & (deltas != 0)
    return (deltas * agree).sum(0) / np.maximum(agree.sum(0), 1)


def _ties(deltas: Array, p: dict[str, Any]) -> Array:
    n = deltas.shape[1]
    trimmed = np.zeros_like(deltas)
    for out, delta in zip(trimmed, deltas, strict=True):
        limit = np.sort(np.abs(delta))[::-1][_count(p["density"], n) - 1]
        out[:] = np.where(np.abs(delta) >= limit, delta, 0)
    return p["lambda"] * _agreeing_mean(trimmed, positive_zero=False)


def _crumbs(delta: Array, p: dict[str, Any]) -> Array:
    """Without the gamma largest; of the rest the density largest."""
    kept = _count(p["density"], delta.size)
    outliers = min(int(p["gamma"] * delta.size), delta.size - kept)
    sizes = np.abs(delta)
    return delta * (_first_largest(sizes, outliers + kept) & ~_first_largest(sizes, outliers))


def _breadcrumbs(deltas: Array, p: dict[str, Any]) -> Array:
    if p.get("scope") == "row":
        return p["lambda"] * np.stack([np.apply_along_axis(_crumbs, -1, delta, p) for delta in deltas]).sum(0)
    return p["lambda"] * np.stack([_crumbs(delta, p) for delta in deltas]).sum(0)


def _breadcrumbs_ties(deltas: Array, p: dict[str, Any]) -> Array:
    return p["lambda"] * _agreeing_mean(np.stack([_crumbs(delta, p) for delta in deltas]), positive_zero=True)


def _consensus(deltas: Array, p: dict[str, Any]) -> Array:
    total = deltas.sum(0)
    masks = np.abs(deltas) > p["threshold"] * np.abs(total - deltas)
    return p["lambda"] * total * (masks.sum(0) >= p["needed"])


def _localize_stitch(deltas: Array, p: dict[str, Any]) -> Array:
    masks = np.stack([_first_largest(np.abs(d), _count(p["density"], d.size)) for d in deltas])
    return (deltas * masks).sum(0) / np.maximum(masks.sum(0), 1)


def _scaled(x: Array) -> Array:
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    return (x - low) / (high - low)


def _pcb(deltas: Array, p: dict[str, Any]) -> Array:
    models, n = deltas.shape
    ordered = np.sort(np.abs(deltas), 1)
    low, high = ordered[:, [int(n * p["clip"])]], ordered[:, [int(n * (1 - p["clip"]) - 1)]]
    sizes = np.clip(np.abs(deltas), low, high)
    scores = np.exp(models * _scaled(sizes) ** 2) * np.tanh(deltas * deltas.sum(0))
    ranked = np.sort(scores, 1)
    shares = _scaled(np.clip(scores, ranked[:, [int(n * (1 - p["ratio"]))]], ranked[:, [-1]]))
    return p["lambda"] * (np.sign(deltas) * sizes * shares).sum(0) / np.maximum(shares.sum(0), 1e-12)


def _sce(deltas: Array, p: dict[str, Any]) -> Array:
    # In float32: of models stored as bfloat16 many vary alike, and rounding must not decide which comes first.
    single = deltas.astype(np.float32)
    variance = ((single - single.mean(0)) ** 2).sum(0)
    selected = _first_largest(variance, int(p["select_topk"] * np.count_nonzero(variance)))
    chosen = deltas * selected
    squares = (chosen**2).reshape(len(deltas), -1).sum(1)
    weights = squares / squares.sum() if squares.sum() > 0 else np.full(len(deltas), 1 / len(deltas))
    merged = deltas if p.get("merges") == "all" else chosen
    agree = np.sign(merged) == np.where(merged.sum(0) >= 0, 1, -1)
    shares = weights.reshape(-1, *[1] * (deltas.ndim - 1)) * agree
    total = shares.sum(0)
    return (shares * merged).sum(0) / np.where(total == 0, 1, total)


def _selekt(deltas: Array, p: dict[str, Any]) -> Array:
    return deltas[0] * _first_largest(np.abs(deltas[0]), _count(p["alpha"], deltas[0].size))


def _model_stock(deltas: Array, p: dict[str, Any]) -> Array:
    flat, n = deltas.reshape(len(deltas), -1), len(deltas)
    lengths = np.linalg.norm(flat, axis=1)
    cosines = flat @ flat.T / np.outer(lengths, lengths)
    cos = (cosines.sum() - n) / (n * (n - 1))
    return min(max(n * cos / (1 + (n - 1) * cos), 0), 1) * deltas.mean(0)


def _arc(x: Array, y: Array, t: float) -> Array:
    a = np.arccos(np.clip((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), -1, 1))
    return (np.sin((1 - t) * a) * x + np.sin(t * a) * y) / np.sin(a)


def _multislerp(deltas: Array, p: dict[str, Any]) -> Array:
    lengths = np.sqrt((deltas.reshape(len(deltas), -1) ** 2).sum(1))
    mean = sum(delta / length for delta, length in zip(deltas, lengths, strict=True))
    return mean / np.linalg.norm(mean) * lengths.mean()


def _karcher(base: Array, values: Array, p: dict[str, Any]) -> Array:
    """The mean on the sphere, to rounding: far more steps than the method is given."""
    flat = values.reshape(len(values), -1)
    lengths = np.linalg.norm(flat, axis=1)
    units = flat / lengths[:, None]
    mean = units.mean(0) / np.linalg.norm(units.mean(0))
    for _ in range(200):
        angles = np.arccos(np.clip(units @ mean, -1, 1))
        step = np.mean([a / np.sin(a) * (u - np.cos(a) * mean) for a, u in zip(angles, units, strict=True)], 0)
        size = np.linalg.norm(step)
        if size < 1e-15:
            break
        mean = np.cos(size) * mean + np.sin(size) * step / size
    return (mean * lengths.mean()).reshape(base.shape)


def _nearswap(base: Array, values: Array, p: dict[str, Any]) -> Array:
    distance = np.abs(values[0] - base)
    share = np.clip(p["t"] / np.where(distance == 0, 1, distance), 0, 1)
    return (1 - share) * base + share * values[0]


def _arcee_fusion(base: Array, values: Array, p: dict[str, Any]) -> Array:
    def logs(x: Array) -> Array:
        rows = x.reshape(-1, x.shape[-1])
        top = rows - rows.max(1, keepdims=True)
        return top - np.log(np.exp(top).sum(1, keepdims=True))

    new, old = logs(values[0]), logs(base)
    divergence = (np.exp(new) * (new - old)).sum(1)
    importance = np.abs(values[0] - base) * divergence.reshape(*base.shape[:-1], 1)
    ordered = np.sort(importance.ravel())
    low, middle, high = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.where(importance >= middle + 1.5 * (high - low), values[0], base)


def _overlapping(deltas: Array, factors: Array) -> Array:
    active = np.abs(deltas) > 1e-5
    count = active.sum(0)
    alone = (deltas * active * factors.reshape(-1, *[1] * (deltas.ndim - 1))).sum(0)
    return np.where(count == 1, alone, (deltas * active).sum(0) / np.maximum(count, 1))


def _ram(deltas: Array, p: dict[str, Any]) -> Array:
    return _overlapping(deltas, np.ones(len(deltas)))


def _ramplus(deltas: Array, p: dict[str, Any]) -> Array:
    active = (np.abs(deltas) > 1e-5).reshape(len(deltas), -1)
    alone = (active & (active.sum(0) == 1)).sum(1)
    shared = (active & (active.sum(0) > 1)).sum(1)
    ratio = np.divide(shared, alone, out=np.zeros(len(deltas)), where=alone > 0)
    return _overlapping(deltas, 1 + p["r"] * np.minimum(ratio, p["alpha"]))


def _svd(x: Array) -> tuple[Array, Array, Array]:
    return np.linalg.svd(x, full_matrices=False)


def _polar(x: Array) -> Array:
    left, _, right = _svd(x)
    return left @ right


def _tsv_m(deltas: Array, p: dict[str, Any]) -> Array:
    kept = min(deltas.shape[1:]) // len(deltas)
    parts = [_svd(delta) for delta in deltas]
    left = np.concatenate([u[:, :kept] for u, _, _ in parts], 1)
    right = np.concatenate([v[:kept] for _, _, v in parts], 0)
    return p["lambda"] * _polar(left) * np.concatenate([s[:kept] for _, s, _ in parts]) @ _polar(right)


def _iso_c(deltas: Array, p: dict[str, Any]) -> Array:
    left, values, right = _svd(deltas.sum(0))
    return p["lambda"] * values.mean() * left @ right


def _iso_cts(deltas: Array, p: dict[str, Any]) -> Array:
    rank, n = min(deltas.shape[1:]), len(deltas)
    own = round((rank - int(rank * p["common"])) / n)
    common = rank - own * n
    left, values, right = _svd(deltas.sum(0))
    lefts, sizes, rights = [left[:, :common]], [values[:common]], [right[:common]]
    for delta in deltas:
        u, s, v = _svd(delta - lefts[0] @ lefts[0].T @ delta)
        lefts, sizes, rights = [*lefts, u[:, :own]], [*sizes, s[:own]], [*rights, v[:own]]
    mean = np.concatenate(sizes).mean()
    return p["lambda"] * mean * _polar(np.concatenate(lefts, 1)) @ _polar(np.concatenate(rights, 0))


def _wudi(deltas: Array, p: dict[str, Any]) -> Array:
    merged = deltas.sum(0)
    first, second = np.zeros_like(merged), np.zeros_like(merged)
    for step in range(1, p["steps"] + 1):
        gradient = sum(2 * (merged - d) @ d.T @ d / (d**2).sum() for d in deltas)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moved = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        merged = merged - p["learning_rate"] * first / (1 - 0.9**step) / moved
    return p["lambda"] * merged


def _ema(base: Array, values: Array, p: dict[str, Any]) -> Array:
    slow = base
    for value in values:
        slow = p["decay"] * slow + (1 - p["decay"]) * value
    return slow


def _layer_swap(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
    """The first and last layer of four from the second model, the two between them averaged or the first's."""
    task, language = models
    result = {}
    for name in base:
        layer = int(name.split(".layers.")[1].split(".")[0]) if ".layers." in name else None
        share = 0.5 if layer is None else 1.0 if layer in (0, 3) else 0.0
        result[name] = (1 - share) * task[name] + share * language[name]
    return result


def _lines(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
    result = {}
    for name, b in base.items():
        layer = int(name.split(".layers.")[1].split(".")[0]) if ".layers." in name else None
        factor = p["alpha"] + (p["beta"] * layer / 3 if layer is not None else 0)
        result[name] = b + factor * p["lambda"] * sum(m[name] - b for m in models)
    return result


_ENCODER = ("self_attn", "mlp")


def _fisher(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
    found: Tensors = {}
    norms = [np.sqrt(sum((f.astype(np.float64) ** 2).sum() for f in known.values())) for known in p["statistics"]]
    for name in base:
        known = zip(p["statistics"], norms, strict=True)
        weights = [np.maximum(one[name].astype(np.float64) / norm, p["floor"]) for one, norm in known]
        found[name] = np.sum([w * m[name] for w, m in zip(weights, models, strict=True)], 0) / np.sum(weights, 0)
    return found


def _regmean(base: Tensors, models: list[Tensors], p: dict[str, Any]) -> Tensors:
    found: Tensors = {}
    for name in base:
        if name not in p["statistics"][0]:
            found[name] = np.mean([m[name] for m in models], 0)
            continue
        grams = [one[name].astype(np.float64) for one in p["statistics"]]
        grams = [p["off_diagonal"] * g + (1 - p["off_diagonal"]) * np.diag(np.diag(g)) for g in grams]
        pulls = sum(g @ m[name].T for g, m in zip(grams, models, strict=True))
        found[name] = np.linalg.solve(sum(grams), pulls).T
    return found


FORMULAS: dict[str, Formula] = {
    "arcee_fusion": _values(_arcee_fusion),
    "breadcrumbs": _each(_breadcrumbs),
    "breadcrumbs_ties": _each(_breadcrumbs_ties),
    "consensus": _whole(_consensus),
    "ema": _values(_ema),
    "fisher": _fisher,
    "iso_c": _matrices(_iso_c),
    "iso_cts": _matrices(_iso_cts),
    "karcher": _values(_karcher),
    "layer_swap": _layer_swap,
    "linear": _values(lambda base, values, p: values.mean(0)),
    "lines": _lines,
    "localize_stitch": _whole(_localize_stitch),
    "model_stock": _each(_model_stock),
    "multislerp": _each(_multislerp),
    "nearswap": _values(_nearswap),
    "nuslerp": _each(lambda deltas, p: _arc(deltas[0], deltas[1], p["share"])),
    "passthrough": _values(lambda base, values, p: p["scale"] * values[0]),
    "pcb": _whole(_pcb),
    "ram": _each(_ram),
    "ramplus_tl": _each(_ramplus),
    "regmean": _regmean,
    "sce": _each(_sce),
    "selekt": _each(_selekt),
    "slerp": _values(lambda base, values, p: _arc(base, values[0], p["t"])),
    "task_arithmetic": _each(lambda deltas, p: p["lambda"] * deltas.sum(0)),
    "ties": _whole(_ties),
    "tsv_m": _matrices(_tsv_m),
    "wudi": _matrices(_wudi, only=_ENCODER, rest=0.0),
}
