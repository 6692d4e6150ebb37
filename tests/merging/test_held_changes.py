"""Changes that a search holds in memory, side by side: merges of them are those of the same models read anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from merging_in_memory import TENSORS, added, drawn

from genepool.merging import Recipe, all_methods, plan_merge, sparse
from genepool.merging.sparse import SparseSum
from genepool.weights import Weights
from genepool.weights.in_memory import TensorWeights, load_resident, stack_changes

ELECTING = sorted(name for name, method in all_methods().items() if isinstance(method, SparseSum))


def merged(method: str, sources: dict[str, Weights], **parameters: Any) -> dict[str, torch.Tensor]:
    """Each tensor twice: what a survey keeps is gone after the first time."""
    models = [{"model": name, "parameters": {"weight": 0.5 + i}} for i, name in enumerate(sources) if name != "base"]
    recipe = Recipe(method=method, base="base", models=models, parameters=parameters, seed=3)
    plan = plan_merge(recipe, sources).weights()
    once = {name: plan.read(name) for name in plan.names()}
    for name, tensor in once.items():
        assert torch.equal(plan.read(name), tensor)
    return once


# Room for one of the tensors, and for all.
@pytest.mark.parametrize("room", [100, sparse._READY_ENTRIES])
@pytest.mark.parametrize("method", ELECTING)
def test_what_a_survey_keeps_from_pass_to_pass_changes_no_bit(
    method: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "_READY_ENTRIES", room)
    base = drawn(0)
    plain = {"base": TensorWeights(base, "base")}
    plain |= {f"m{i}": TensorWeights(added(base, drawn(i + 1)), f"m{i}") for i in range(3)}
    opened: dict[str, Weights] = dict(plain)
    resident = load_resident(opened["base"])
    held = {"base": resident, **{f"m{i}": load_resident(opened[f"m{i}"], (opened["base"], resident)) for i in range(3)}}
    stack_changes([held[f"m{i}"] for i in range(3)])
    known = {parameter.name: parameter for parameter in all_methods()[method].parameters}
    ways = [{"rescale": choice} for choice in known["rescale"].choices] if "rescale" in known else [{}]
    for way in ways:
        expected, found = merged(method, opened, **way), merged(method, held, **way)
        assert set(expected) == set(found) == set(TENSORS)
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (way, name)
