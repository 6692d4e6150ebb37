"""Forms of adapters: fold equals forward for every form that folds, and what stands in a folder is checked first."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear

sys.path.append(str(Path(__file__).parent.parent / "tasks"))

from tiny_models import write_classifier, write_model

from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.weights import open_weights
from genepool.weights.adapter_forms import adapter_forms, make_form
from genepool.weights.adapter_forms.corda import decomposed
from genepool.weights.adapter_forms.crash import cka, clusters
from genepool.weights.formed.adapter_form import Beginning, FormOfAdapter, LinearForm
from genepool.weights.formed.attached import Attached
from genepool.weights.formed.form_folder import write_form
from genepool.weights.formed.sites import LinearSite, ModelSites, sites_of

TASKS = ("first", "second")
#: Options under which a form fits models of a width of 16 and of four layers.
SMALL: dict[str, dict[str, Any]] = {
    "qa_lora": {"rank": 3, "group": 4}, "mtlora": {"rank": 3, "task_rank": 2}, "kind": {"tailor": 3},
    "personal": {"width": 5, "experts": 3, "rank": 2}, "relaxed_recursive": {"rank": 2}, "stage_sharing": {"stages": 2},
    "crash": {"kept": 1}, "corda": {"rank": 3},
}  # fmt: skip
FOLDING = sorted(name for name, kind in adapter_forms().items() if issubclass(kind, LinearForm))
#: Those that begin as something else than the base.
ELSEWHERE = {"relaxed_recursive", "stage_sharing", "prefix", "prompt", "das", "abnn"}


def made(name: str) -> FormOfAdapter:
    return make_form(name, SMALL.get(name, {}), TASKS if adapter_forms()[name].by_task else (), name)


def places(bias: bool, inputs: int, outputs: int, depth: int = 4) -> ModelSites:
    """Layers of an MLP of two matrices, the second of which forms like Hydra's stand on."""
    sites = []
    for layer in range(depth):
        first = LinearSite(f"h.{layer}.mlp.up", outputs, inputs, bias, False, "h", layer, "mlp.up", "mlp")
        last = LinearSite(f"h.{layer}.mlp.down", inputs, outputs, bias, False, "h", layer, "mlp.down", "mlp")
        sites += [first, last]
    return ModelSites("model", tuple(sites), (), (), {})


def drawn(form: FormOfAdapter, sites: ModelSites, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in form.all_shapes(sites).items()}
    if "centres" in found:
        found["centres"] = torch.arange(len(found["centres"])).float()
    return found


@pytest.mark.parametrize("name", FOLDING)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), bias=st.booleans(), inputs=st.sampled_from([4, 8, 20]),
    outputs=st.sampled_from([4, 12, 16]), task=st.integers(-1, 1),
)  # fmt: skip
def test_fold_equals_forward(name: str, seed: int, bias: bool, inputs: int, outputs: int, task: int) -> None:
    form = made(name)
    assert isinstance(form, LinearForm)
    task = task if form.by_task else -1
    sites = places(bias, inputs, outputs)
    tensors = drawn(form, sites, seed)
    for site in form.chosen(sites):
        weight, x = torch.randn(site.outputs, site.inputs), torch.randn(2, 3, site.inputs)
        shift = torch.randn(site.outputs) if bias else None
        parts = form.parts_of(site, sites, tensors)
        beside = form.forward(site, parts, x, lambda x, w=weight, b=shift: linear(x, w, b), task)  # type: ignore[misc]
        change, moved = form.change(site, parts, weight, shift, task)
        assert (moved is not None) == form.changes_bias(site)
        folded = linear(x, weight + change, shift if moved is None else shift + moved)
        assert float((beside - folded).abs().max()) <= 1e-5 * max(1.0, float(beside.abs().max()))
        if (product := form.product(site, parts, task)) is not None:
            again = product.factor * (product.left @ product.right)
            assert torch.allclose(again, change, rtol=1e-5, atol=1e-5 * float(change.abs().max()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("forms")
    for kind in ("llama", "gpt2"):
        write_model(world / kind, kind=kind, **({"num_hidden_layers": 4} if kind == "llama" else {"n_layer": 4}))
    write_classifier(world / "bert", num_hidden_layers=4)
    return world


IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS).logits
    return found


def begun(form: FormOfAdapter, folder: Path) -> tuple[Any, Attached, dict[str, torch.Tensor]]:
    """A network of the base with the form as it begins."""
    weights = open_weights(folder)
    network = open_model(weights).load().model
    sites = sites_of(weights)

    def read(site: LinearSite) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = weights.read(f"{site.module}.weight")
        return weight.T if site.transposed else weight, weights.read(f"{site.module}.bias") if site.bias else None

    def squares(sites: Any) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(7)
        rows = {one.module: torch.randn(50, one.inputs, generator=generator, dtype=torch.float64) for one in sites}
        return {name: one.T @ one / 50 for name, one in rows.items()}

    def layers(names: Any) -> list[torch.Tensor]:
        return [torch.randn(6, 4, generator=torch.Generator().manual_seed(at)) for at, _ in enumerate(names)]

    tensors = form.all_begin(Beginning(sites, read, 0, squares, layers, lambda boxes, _: float(len(boxes[0]))))
    assert {name: tuple(one.shape) for name, one in tensors.items()} == form.all_shapes(sites)
    return network, Attached(form, network, sites, tensors), tensors


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users.safetensors"
    save_file(
        {task: torch.randn(5, generator=torch.Generator().manual_seed(at)) for at, task in enumerate(TASKS)}, path
    )
    monkeypatch.setitem(SMALL, "personal", {**SMALL["personal"], "users": str(path)})


@pytest.mark.parametrize("name", sorted(adapter_forms()))
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_form_begins_as_the_base_stands_in_its_folder_and_is_taken_out_again(
    name: str, kind: str, models: Path, tmp_path: Path, users: None
) -> None:
    form = made(name)
    if form.reads == ("text" if kind == "bert" else "classes"):
        return
    if (name, kind) in {("prompt", "gpt2"), ("das", "bert")}:
        with pytest.raises(InputError):
            form.all_shapes(sites_of(open_weights(models / kind)))
        return
    plain = logits(open_model(models / kind).load().model)
    network, attached, tensors = begun(form, models / kind)
    if name not in ELSEWHERE:
        assert torch.allclose(logits(network), plain, atol=2e-4)
    with attached.off():
        assert torch.equal(logits(network), plain)
    moved = {
        name: one
        if form.frozen(name)
        else one + 0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(3))
        for name, one in tensors.items()
    }
    attached.detach()
    assert torch.equal(logits(network), plain)
    assert not any("forward" in vars(module) for module in network.modules())
    base = open_weights(models / kind)
    write_form(tmp_path / "form", form, moved, {"name": "base", "fingerprint": base.fingerprint()}, 0, {})
    for task, marked in enumerate(("", *(f"#{one}" for one in form.tasks)), -1):
        expected = Attached(form, network, sites_of(base), moved)
        expected.task = task
        wanted = logits(network)
        expected.detach()
        source = open_model(f"{models / kind}+{tmp_path / 'form'}{marked}")
        found = logits(source.load().model)
        assert float((found - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max())), marked
        assert not torch.allclose(found, plain, atol=1e-3)
        assert source.fingerprint != base.fingerprint()
    # What is asked of a loaded model afterwards is the base again.
    model = source.load()
    model.assign(base)
    assert torch.equal(logits(model.model), plain)
    model.assign(open_weights(f"{models / kind}+{tmp_path / 'form'}{marked}"))
    assert torch.equal(logits(model.model), found)


@pytest.fixture
def hydra(models: Path, tmp_path: Path) -> Path:
    form = made("hydra")
    base = open_weights(models / "llama")
    tensors = drawn(form, sites_of(base), 1)
    return_to = tmp_path / "hydra"
    write_form(return_to, form, tensors, {"name": "base", "fingerprint": base.fingerprint()}, 0, {})
    return return_to


def _said(folder: Path, change: Mapping[str, Any]) -> None:
    said = json.loads((folder / "form.json").read_text())
    (folder / "form.json").write_text(json.dumps({**said, **change}))


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"form": "hidra"}, "form.json:form", "there is no form 'hidra'"),
        ({"genepool_form": 2}, "form.json", "newer"),
        ({"parameters": {"rank": 0}}, "form.json:parameters:rank", "greater than or equal to 1"),
        ({"parameters": {"rank": 3}}, "parallel_down", "expected F32 of [3"),
        ({"parameters": []}, "form.json", "parameters are damaged"),
        ({"tasks": ["a", "a"]}, "form.json:tasks", "twice"),
        ({"tasks": [1]}, "form.json:tasks", "expected names"),
        ({"seed": -1}, "form.json:seed", "got"),
        ({"base": {"name": "other", "fingerprint": "0" * 64}}, "hydra", "trained on another base, other"),
        ({"base": {}}, "form.json:base", "damaged"),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(
    hydra: Path, models: Path, change: dict[str, Any], where: str, what: str
) -> None:
    _said(hydra, change)
    with pytest.raises(InputError) as refused:
        open_weights(f"{models / 'llama'}+{hydra}")
    assert where in refused.value.where
    assert what in str(refused.value)


def test_tensors_are_checked_before_and_after_they_are_read(hydra: Path, models: Path) -> None:
    file = hydra / "tensors.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({key: one for key, one in tensors.items() if key != name}, file)
    with pytest.raises(InputError, match="the tensor is missing"):
        open_weights(f"{models / 'llama'}+{hydra}")
    save_file({**tensors, "more": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="no such tensor"):
        open_weights(f"{models / 'llama'}+{hydra}")
    save_file({**tensors, name: tensors[name] * float("nan")}, file)
    opened = open_weights(f"{models / 'llama'}+{hydra}")
    with pytest.raises(InputError, match="holds NaN"):
        opened.read("model.layers.0.mlp.down_proj.weight")
    save_file(tensors, file)
    with pytest.raises(InputError, match="no parts for tasks"):
        open_weights(f"{models / 'llama'}+{hydra}#first")
    with pytest.raises(InputError, match="without a base"):
        open_weights(hydra)


def test_qa_lora_is_pefts_and_folds_into_float_zeros_alone() -> None:
    from peft.tuners.lora.variants import QALoraLinearVariant

    form = made("qa_lora")
    assert isinstance(form, LinearForm)
    sites = places(False, 12, 8)
    site = sites.linear[0]
    parts = form.parts_of(site, sites, drawn(form, sites, 5))
    x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(1))
    ours = form.forward(site, parts, x, lambda x: torch.zeros(2, 3, 8), -1)

    class Layer:
        """What PEFT's variant reads of a layer."""

        in_features, training = 12, False

        def __init__(self) -> None:
            self.lora_A = {"x": torch.nn.Linear(3, 3, bias=False)}
            self.lora_B = {"x": torch.nn.Linear(3, 8, bias=False)}
            # PEFT multiplies the pooled inputs by the number of groups.
            self.lora_A["x"].weight.data = parts["A"] / 3
            self.lora_B["x"].weight.data = parts["B"]
            self.lora_dropout = {"x": torch.nn.Identity()}
            self.scaling, self.qalora_group_size = {"x": 16.0 / 3}, {"x": 4}

    theirs = QALoraLinearVariant.forward(Layer(), "x", x, torch.zeros(2, 3, 8))  # type: ignore[arg-type]
    assert torch.allclose(ours, theirs, atol=1e-5)
    # A base that is quantised in the same groups: weight = scale (q - zero).
    scale, zero = torch.rand(8, 3) + 0.5, torch.rand(8, 3) * 15
    q = torch.randint(0, 16, (8, 3, 4)).float()
    base = (scale[..., None] * (q - zero[..., None])).flatten(1)
    change, _ = form.change(site, parts, base, None, -1)
    group_change = change.view(8, 3, 4)[..., 0]
    shifted = zero - group_change / scale
    assert torch.allclose((scale[..., None] * (q - shifted[..., None])).flatten(1), base + change, atol=1e-4)
    rounded = (scale[..., None] * (q - shifted.round()[..., None])).flatten(1)
    assert not torch.allclose(rounded, base + change, atol=1e-2)


@pytest.mark.parametrize("mode", ["knowledge", "instruction"])
def test_corda_chooses_what_peft_chooses(mode: str) -> None:
    from peft import LoraConfig
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("layer", torch.nn.Linear(10, 6))
    x = torch.randn(1, 40, 10) @ torch.randn(10, 10)
    config = LoraConfig(
        r=2,
        target_modules=["layer"],
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm" if mode == "knowledge" else "ipm"),
    )
    preprocess_corda(model, config, run_model=lambda: model(x))
    eigens = model.layer.eigens
    theirs = eigens.U_WC @ torch.diag(eigens.S_WC) @ eigens.V_WC.T
    rows = x[0].double()
    weight = model.layer.weight.detach()
    a, b = decomposed(weight, rows.T @ rows / 40, 2, largest=mode == "instruction")
    assert torch.allclose(b @ a, theirs, atol=1e-4 * float(weight.abs().max()))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_corda_refuses_inputs_that_are_no_numbers_instead_of_damping_for_ever(number: float) -> None:
    with pytest.raises(InputError, match="read NaN or infinity"):
        decomposed(torch.eye(3), torch.full((3, 3), number, dtype=torch.float64), 1, largest=True)


def test_corda_names_a_layer_that_no_example_reaches_and_begins_one_by_one_as_all_at_once(models: Path) -> None:
    sites = sites_of(open_weights(models / "llama"))
    form = make_form("corda", {"rank": 2}, (), "")
    torch.manual_seed(0)
    squares = {site.module: torch.eye(site.inputs, dtype=torch.float64) for site in form.chosen(sites)}
    weights = {site.module: torch.randn(site.outputs, site.inputs) for site in form.chosen(sites)}
    beginning: Any = SimpleNamespace(
        sites=sites, squares=lambda _: squares, read=lambda one: (weights[one.module], None)
    )
    site = form.chosen(sites)[0]
    whole = form.begin(beginning)
    for part, value in form.begin_at(site, beginning).items():
        assert torch.equal(whole[f"{site.module}.{part}"], value)
    del squares[site.module]
    with pytest.raises(InputError, match=f"{re.escape(site.module)}: no example reaches"):
        form.begin(beginning)


def test_a_prompt_and_a_prefix_compute_what_peft_computes(models: Path) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    # PEFT draws its vectors from torch's global generator. In float32 both would round by as much as is compared.
    torch.manual_seed(0)
    base = open_weights(models / "llama")
    sites = sites_of(base)
    peft = get_peft_model(
        open_model(base).load("cpu", "float64").model,
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ).double()
    prompt = make_form("prompt", {"length": 4}, (), "")
    weights = peft.prompt_encoder.default.embedding.weight.detach().clone()
    with torch.no_grad():
        theirs = peft(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, 4:]
    network = open_model(base).load("cpu", "float64").model
    attached = Attached(prompt, network, sites, {"embeddings": weights})
    assert torch.allclose(logits(network), theirs, atol=1e-4)
    attached.detach()

    peft = get_peft_model(
        open_model(base).load("cpu", "float64").model,
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ).double()
    flat = peft.prompt_encoder.default.embedding.weight.detach().clone()
    form = make_form("prefix", {"length": 3}, (), "")
    heads, _, size = form.shapes(sites)["0.key"]
    # (length, 2 x layers, heads, entries): the key and the value of each layer stand beside each other.
    cut = flat.view(3, -1, heads, size).permute(1, 2, 0, 3)
    rotary = network.model.rotary_emb
    cos, sin = rotary(flat[None], torch.full((1, 3), -3))
    tensors = {}
    for layer in range(4):
        key = cut[2 * layer]
        halves = torch.cat([-key[..., size // 2 :], key[..., : size // 2]], -1)
        tensors[f"{layer}.key"] = key * cos[0] + halves * sin[0]
        tensors[f"{layer}.value"] = cut[2 * layer + 1]
    with torch.no_grad():
        theirs = peft(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    Attached(form, network, sites, tensors)
    assert torch.allclose(logits(network), theirs, atol=1e-4)


def test_layers_that_are_alike_are_one_cluster() -> None:
    one = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    other = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    turned = one @ torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    assert cka(one, turned * 3 + 1) == pytest.approx(1)
    assert cka(one, other) < 0.5
    assert clusters([one, turned, other, other * 2, other * 3], 2) == [[0, 1], [2, 3, 4]]
    assert clusters([one, other], 2) == [[0], [1]]


def test_the_bandit_skips_what_is_needed_least(models: Path) -> None:
    form = make_form("das", {"skip": 2, "rounds": 40}, (), "")
    weights = open_weights(models / "llama")
    harm = {"0": 2.0, "1": 0.1, "2": 3.0, "3": 0.2}

    def loss(boxes: Any, _: int) -> float:
        return sum(harm[box.split(".")[2]] for box in boxes)

    def nothing(_: Any) -> Any:
        raise AssertionError("is not asked")

    tensors = form.begin(Beginning(sites_of(weights), nothing, 0, nothing, nothing, loss))
    assert tensors["skipped"].tolist() == [1, 3]


def test_abnn_answers_with_the_mean_of_its_draws(models: Path) -> None:
    form = make_form("abnn", {"members": 2, "draws": 3}, (), "")
    network, attached, _ = begun(form, models / "bert")
    probabilities = logits(network).exp()
    assert torch.allclose(probabilities.sum(-1), torch.ones(2), atol=1e-5)
    assert torch.equal(logits(network).exp(), probabilities)
    attached.detach()
    still = make_form("abnn", {"members": 2, "draws": 3, "deviation": 0.0}, (), "")
    plain = logits(network).softmax(-1)
    begun_still, _, _ = begun(still, models / "bert")
    assert torch.allclose(logits(begun_still).exp(), plain, atol=1e-5)
    assert np.abs((probabilities - plain).numpy()).max() > 1e-6
