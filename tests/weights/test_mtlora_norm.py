"""MTLoRA's mode `norm`: what tasks share is a LayerNorm of the sum of their layers, and the last layer is a task's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "tasks"))

from tiny_models import write_model

from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.weights import open_weights
from genepool.weights.adapter_forms import make_form
from genepool.weights.formed.adapter_form import FormOfAdapter, LinearForm
from genepool.weights.formed.form_folder import write_form
from genepool.weights.formed.formed_weights import FormedWeights
from genepool.weights.formed.sites import sites_of

TASKS = ("first", "second")
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])


def form_of(mode: str = "norm") -> FormOfAdapter:
    return make_form("mtlora", {"mode": mode, "rank": 3, "task_rank": 2, "alpha": 6.0}, TASKS, "")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("norm") / "base", num_hidden_layers=3)


def drawn(base: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    shapes = form_of().all_shapes(sites_of(open_weights(base)))
    return {name: torch.randn(shape, generator=dice) * 0.3 for name, shape in shapes.items()}


def written(base: Path, out: Path, tensors: dict[str, torch.Tensor]) -> Path:
    weights = open_weights(base)
    write_form(out, form_of(), tensors, {"name": "base", "fingerprint": weights.fingerprint()}, 0, {})
    return out


def states(reference: str) -> tuple[torch.Tensor, ...]:
    model: Any = open_model(reference).load()
    with torch.inference_mode():
        result = model.model(input_ids=IDS, output_hidden_states=True)
    return (*result.hidden_states[:-1], result.logits)


def test_a_layer_is_what_the_definition_says(base: Path) -> None:
    """y_t = Wx + s_t B_t A_t x, and what is shared is Wx + LayerNorm(sum_t y_t), as torch's own norm computes it."""
    form = form_of()
    assert isinstance(form, LinearForm)
    sites = sites_of(open_weights(base))
    site = sites.linear[1]
    parts = form.parts_of(site, sites, drawn(base))
    assert {*parts} == {"0.A", "0.B", "1.A", "1.B", "norm_gain", "norm_shift"}
    weight, x = torch.randn(site.outputs, site.inputs), torch.randn(2, 3, site.inputs)
    plain = x @ weight.T
    # alpha / task_rank is 3.
    own = [plain + 3 * (x @ parts[f"{task}.A"].T @ parts[f"{task}.B"].T) for task in (0, 1)]
    for task in (0, 1):
        found = form.forward(site, parts, x, lambda x: x @ weight.T, task)
        torch.testing.assert_close(found, own[task])
    norm = torch.nn.LayerNorm(site.outputs)
    norm.load_state_dict({"weight": parts["norm_gain"], "bias": parts["norm_shift"]})
    found = form.forward(site, parts, x, lambda x: x @ weight.T, -1)
    torch.testing.assert_close(found, plain + norm(own[0] + own[1]).detach())


def test_every_layer_but_the_last_is_shared(base: Path, tmp_path: Path) -> None:
    tensors = drawn(base)
    folder = written(base, tmp_path / "form", tensors)
    plain, shared = states(str(base)), states(f"{base}+{folder}")
    first, second = (states(f"{base}+{folder}#{task}") for task in TASKS)
    # What comes out of the layers before the last is the same whoever is asked, and it is not the base's.
    for one, other, bare in zip(shared[:-1], first[:-1], plain[:-1], strict=True):
        torch.testing.assert_close(one, other)
        assert one is shared[0] or not torch.allclose(one, bare, atol=1e-3)
    assert not torch.allclose(first[-1], second[-1], atol=1e-3)
    assert not torch.allclose(first[-1], shared[-1], atol=1e-3)
    # The last layer gives a task its own factors alone.
    own = {name: one for name, one in tensors.items() if ".layers.2." not in name or ".0." not in name}
    moved = {name: torch.zeros_like(one) if name not in own else one for name, one in tensors.items()}
    torch.testing.assert_close(states(f"{base}+{written(base, tmp_path / 'moved', moved)}#second")[-1], second[-1])


def test_it_does_not_fold_and_says_so(base: Path, tmp_path: Path) -> None:
    opened = open_weights(f"{base}+{written(base, tmp_path / 'form', drawn(base))}#first")
    assert isinstance(opened, FormedWeights)
    with pytest.raises(InputError, match="does not fold into weights: what its tasks share is a LayerNorm"):
        opened.read("model.layers.0.mlp.up_proj.weight")
    alone = open_weights(f"{base}+{tmp_path / 'form'}")
    assert len({opened.fingerprint(), alone.fingerprint(), open_weights(base).fingerprint()}) == 3
    assert form_of("task_alone").folds
