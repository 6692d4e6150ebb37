"""LoRA skills beside the base have the gradient that the gradients of the weights give, and are used where they may."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import write_model

from genepool.composition import SkillSet, branches, open_skills
from genepool.composition.branches import BranchedNetwork, why_no_branches
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.gradient import MergedNetwork
from genepool.tasks import open_model
from genepool.tasks.network import Network

Cli = Callable[..., Any]


def write_adapter(base: Path, out: Path, seed: int, **settings: Any) -> Path:
    """A random adapter of a causal language model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(init_lora_weights=False, **settings))
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if "lora_" in key:
                parameter.normal_(std=0.3)
    tuned.save_pretrained(str(out))
    return out


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, one/ and two/: GPT-2, whose matrices lie the other way round, and adapters of other ranks and layers."""
    world = tmp_path_factory.mktemp("branches")
    base = write_model(world / "base", kind="gpt2")
    write_adapter(base, world / "one", 1, r=2, lora_alpha=5, target_modules=["c_attn", "c_fc"])
    write_adapter(base, world / "two", 2, r=3, target_modules=["c_fc", "c_proj"])
    return world


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def opened(request: pytest.FixtureRequest, text_bed: Path, gpt2: Path) -> tuple[SkillSet, Network]:
    base = text_bed / "base" if request.param == "llama" else gpt2 / "base"
    folder = text_bed / "lora" if request.param == "llama" else gpt2
    skills = open_skills(str(base), [str(folder / "one"), str(folder / "two")])
    network = open_model(base).load(dtype="float64")
    assert isinstance(network, Network)
    return skills, network


def loss_of(network: Network, seed: int) -> torch.Tensor:
    ids = torch.randint(3, 20, (2, 7), generator=torch.Generator().manual_seed(seed))
    logs = network.model(input_ids=ids).logits.log_softmax(-1)
    found: torch.Tensor = -logs[:, :-1].gather(2, ids[:, 1:, None]).mean()
    return found


@settings(max_examples=6)
@given(by_rows=st.booleans(), seed=st.integers(0, 1000), size=st.floats(0, 1.5))
def test_the_gradient_is_that_through_the_weights(
    opened: tuple[SkillSet, Network], by_rows: bool, seed: int, size: float
) -> None:
    skills, network = opened
    vectors = skills.vectors()
    parts = max(vectors.matrix(name)[0] for name in vectors.names) if by_rows else 1
    layout = CoefficientLayout(2, vectors.names, parts, by_rows=by_rows)
    coefficients = size * torch.rand(layout.shape, generator=torch.Generator().manual_seed(seed))
    losses = [lambda number=number: loss_of(network, seed + number) for number in range(2)]
    merged = MergedNetwork(network, vectors, layout)
    merged.put(coefficients)
    expected_loss, expected = merged.gradient(losses)
    network.assign(skills.base)
    branched = BranchedNetwork(network, vectors, layout)
    with branched.adding():
        branched.put(coefficients)
        loss, found = branched.gradient(losses)
        assert branched.unlike(losses[0]) == ""
        assert all(parameter.grad is None for parameter in network.model.parameters())
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_layer_adds_nothing_outside_the_block(opened: tuple[SkillSet, Network]) -> None:
    skills, network = opened
    vectors = skills.vectors()
    layout = CoefficientLayout(2, vectors.names)
    network.assign(skills.base)
    before = loss_of(network, 1)
    branched = BranchedNetwork(network, vectors, layout)
    with branched.adding():
        branched.put(torch.full(layout.shape, 0.5))
        assert loss_of(network, 1) != before
    assert torch.equal(loss_of(network, 1), before)


@pytest.mark.parametrize("how", ["no call", "one call more"])
def test_a_weight_that_is_used_otherwise_is_found(text_bed: Path, how: str) -> None:
    skills = open_skills(str(text_bed / "base"), [str(text_bed / "lora" / name) for name in ("one", "two")])
    network = open_model(text_bed / "base").load()
    assert isinstance(network, Network)
    layer = network.model.model.layers[1].self_attn.q_proj
    call = layer.forward

    def without_it(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, layer.weight)

    branched = BranchedNetwork(network, skills.vectors(), CoefficientLayout(2, skills.vectors().names))
    with branched.adding():
        branched.put(torch.full(branched.layout.shape, 0.3))
        assert branched.unlike(lambda: loss_of(network, 1)) == ""

        def loss() -> torch.Tensor:
            if how == "no call":
                for key in list(layer._forward_hooks):
                    del layer._forward_hooks[key]
                return loss_of(network, 1)
            return loss_of(network, 1) + without_it(torch.ones(1, layer.in_features)).square().sum()

        assert branched.unlike(loss) == "model.layers.1.self_attn.q_proj.weight"
    assert layer.forward == call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layers"), [("gpt_neox", "all-linear"), ("mixtral", ["q_proj", "k_proj", "v_proj", "o_proj"])]
)
def test_every_linear_layer_of_other_architectures_adds_up(tmp_path: Path, kind: str, layers: Any) -> None:
    base = write_model(tmp_path / "base", kind=kind)
    adapters = [str(write_adapter(base, tmp_path / f"of{n}", n, r=2, target_modules=layers)) for n in (1, 2)]
    skills = open_skills(str(base), adapters)
    assert why_no_branches(skills, skills.memory_changes) == ""
    network = open_model(base).load()
    assert isinstance(network, Network)
    branched = BranchedNetwork(network, skills.vectors(), CoefficientLayout(2, skills.vectors().names))
    with branched.adding():
        branched.put(torch.full(branched.layout.shape, 0.3))
        assert branched.unlike(lambda: loss_of(network, 1)) == ""


@pytest.mark.slow
def test_mamba_uses_a_matrix_without_its_layer(tmp_path: Path) -> None:
    """transformers multiplies by `dt_proj.weight` itself, so that no hook of the layer is called."""
    from transformers import MambaConfig, MambaForCausalLM

    base = tmp_path / "base"
    write_model(base)
    torch.manual_seed(0)
    vocabulary = json.loads((base / "config.json").read_text())["vocab_size"]
    config = MambaConfig(
        vocab_size=vocabulary, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.6, pad_token_id=0
    )
    for file in base.glob("model*"):
        file.unlink()
    MambaForCausalLM(config).save_pretrained(base)
    adapter = write_adapter(base, tmp_path / "one", 1, r=2, target_modules=["dt_proj", "in_proj"])
    skills = open_skills(str(base), [str(adapter)])
    network = open_model(base).load()
    assert isinstance(network, Network)
    branched = BranchedNetwork(network, skills.vectors(), CoefficientLayout(1, skills.vectors().names))
    with branched.adding():
        branched.put(torch.full(branched.layout.shape, 0.3))
        assert branched.unlike(lambda: loss_of(network, 1)) == "backbone.layers.0.mixer.dt_proj.weight"


def test_what_is_no_layer_alone_is_said(text_bed: Path, tmp_path: Path) -> None:
    base = text_bed / "base"
    one = str(text_bed / "lora" / "one")

    def why(name: str, **settings: Any) -> str:
        other = write_adapter(base, tmp_path / name, 3, **{"r": 2, "target_modules": ["q_proj"], **settings})
        skills = open_skills(str(base), [one, str(other)])
        return why_no_branches(skills, skills.memory_changes)

    assert why("plain") == ""
    assert why("embedding", target_modules=["embed_tokens"]) == (
        "model.embed_tokens.weight is no weight of a linear layer alone"
    )
    assert why("dora", use_dora=True).endswith("q_proj.weight by no product of two factors")
    tuned = write_model(tmp_path / "tuned", tie_word_embeddings=True, seed=5)
    skills = open_skills(str(base), [one, str(tuned)])
    assert (
        why_no_branches(skills, skills.memory_changes)
        == "model.embed_tokens.weight is no weight of a linear layer alone"
    )


# ---------------------------------------------------------------------- through the command


def composed(cli: Cli, text_bed: Path, out: Path, *options: Any, method: str = "adamerging") -> dict[str, Any]:
    answer = cli(
        "compose", method, text_bed / "lora" / "one", text_bed / "lora" / "two", "--base", text_bed / "base",
        "--tasks", text_bed / "tasks", "--examples", 8, "--out", out, "--json", "--set", "steps=3", "--set", "every=2",
        "--set", "batch=4", "--set", "check_inputs=false", *options,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return {**json.loads(answer.out), "err": answer.err}


@pytest.mark.parametrize(("method", "other_way"), [("adamerging", "fused"), ("scalearn", "whole")])
def test_a_fit_of_adapters_gives_what_it_gives_multiplied_out(
    cli: Cli, text_bed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, other_way: str
) -> None:
    found = composed(cli, text_bed, tmp_path / "beside", method=method)
    assert "LoRA skills run beside the base" in found["err"]
    assert found["record"]["gradients"] == "branches"
    monkeypatch.setattr(BranchedNetwork, "unlike", lambda self, loss: "a.weight")
    other = composed(cli, text_bed, tmp_path / "out", method=method)
    assert "the network does not use a.weight by its layer alone, so the factors are multiplied out" in other["err"]
    assert other["record"]["gradients"] == other_way
    assert found["record"]["loss"] == pytest.approx(other["record"]["loss"], rel=1e-3)


def test_the_plan_says_which_way_and_why_not_another(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    world = tmp_path / "world"
    shutil.copytree(text_bed, world)
    write_adapter(world / "base", world / "lora" / "three", 3, r=2, target_modules=["embed_tokens", "q_proj"])

    def planned(*skills: str, method: str = "adamerging", **options: Any) -> dict[str, Any]:
        said = {"compose": 1, "method": method, "base": "base", "skills": list(skills), "tasks": "tasks"}
        (world / "plan.yaml").write_text(json.dumps({**said, "options": options}))
        answer = cli("plan", world / "plan.yaml", "--json")
        assert answer.code == 0, answer.err
        return dict(json.loads(answer.out))

    beside = planned("lora/one", "lora/two")
    assert (beside["way"], beside["why"]) == ("branches", None)
    assert "LoRA skills run beside the base" in cli("plan", world / "plan.yaml").out
    assert beside["streamed"] == []
    fallen = planned("lora/one", "lora/three")
    assert (fallen["way"], fallen["why"]) == ("fused", "model.embed_tokens.weight is no weight of a linear layer alone")
    said = cli("plan", world / "plan.yaml").out
    assert "multiplied out, because model.embed_tokens.weight is no weight" in " ".join(said.split())
    assert planned("lora/one", "lora/three", by="layer")["way"] == "whole"
    # A random part of a tensor is no product; a norm of all gradients is known when all are there.
    assert planned("lora/one", "lora/two", method="atlas", partitions=2)["way"] == "whole"
    assert planned("lora/one", "lora/two", method="atlas", partitions=2, clip=0)["way"] == "fused"
    assert planned("lora/one", "lora/two", method="adamerging_pp")["way"] == "fused"
    assert planned("lora/one", "lora/two", method="lorahub")["way"] is None


def test_factors_that_do_not_fit_are_not_held(text_bed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genepool.composition.residence import plan_residence

    skills = open_skills(str(text_bed / "base"), [str(text_bed / "lora" / name) for name in ("one", "two")])
    assert plan_residence(skills, way="fused", beside=True).way == "branches"
    monkeypatch.setattr(branches, "factor_bytes", lambda *_: {"one": 1 << 62})
    monkeypatch.setattr("genepool.composition.residence.factor_bytes", lambda *_: {"one": 1 << 62})
    found = plan_residence(skills, way="fused", beside=True)
    assert (found.way, found.why) == ("fused", "they do not fit into memory")
