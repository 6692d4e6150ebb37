"""Mixtures of experts out of dense models: `genepool merge` on the files of `mergekit-moe`.

The gates of prompts and the tensors of every architecture are held to their definitions; the models load with plain
transformers, and a mixture of equal experts answers as the dense model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from genepool.weights import open_weights

SIZES = {
    "vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WORDS = [f"w{i}" for i in range(21)]


@pytest.fixture
def dense(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small random model of a class of transformers with a tokenizer of words: `dense("a", "Llama", 1)`."""

    def make(name: str, family: str, seed: int, **config: Any) -> Path:
        import transformers
        from tokenizers import Tokenizer, models, pre_tokenizers

        settings = getattr(transformers, f"{family}Config")(**{**SIZES, **config})
        torch.manual_seed(seed)
        model = getattr(transformers, f"{family}ForCausalLM")(settings)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        folder = tmp_path / name
        model.save_pretrained(folder)
        tokens = {"<unk>": 0, "<s>": 1, "</s>": 2, **{word: 3 + i for i, word in enumerate(WORDS)}}
        raw = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
        return folder

    return make


def _write(path: Path, **recipe: Any) -> Path:
    path.write_text(yaml.safe_dump(recipe))
    return path


def _experts(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"source_model": name, "positive_prompts": [f"w{3 * i} w{3 * i + 1}"], **more} for i, name in enumerate(names)
    ]


@pytest.mark.slow
def test_a_mixture_of_equal_experts_answers_as_the_dense_model(
    tmp_path: Path, dense: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM

    base = dense("base", "Llama", 0)
    file = _write(
        tmp_path / "mix.yaml", base_model="base", gate_mode="random", experts=[{"source_model": "base"}] * 4
    )  # fmt: skip
    answer = cli("merge", file, tmp_path / "out", "--seed", 5)
    assert answer.code == 0, answer.err
    assert "a mixture of 4 experts (mixtral)" in answer.out
    assert "until it is trained" in answer.err
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    with torch.no_grad():
        models = [AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32) for at in (base, tmp_path / "out")]
        one, many = (model(ids).logits for model in models)
    torch.testing.assert_close(many, one, atol=1e-5, rtol=1e-4)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_local_experts"] == 4
    assert yaml.safe_load((tmp_path / "out" / "mixture.yaml").read_text())["gate_mode"] == "random"
    record = json.loads((tmp_path / "out" / "genepool.json").read_text())
    assert record["leaf_models"] == ["base"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "architecture", "shared"),
    [("Llama", None, 0), ("Mistral", None, 0), ("Qwen2", None, 1), ("Llama", "qwen", 1), ("Qwen3", None, 0)],
)
def test_every_tensor_is_the_experts_or_the_bases(
    tmp_path: Path,
    dense: Callable[..., Path],
    cli: Callable[..., Any],
    family: str,
    architecture: str | None,
    shared: int,
) -> None:
    """Held to what transformers loads: experts' matrices, stacked as its class stacks them, the rest of the base."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for seed, name in enumerate(("base", "a", "b")):
        dense(name, family, seed)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    recipe: dict[str, Any] = {
        "base_model": "base", "gate_mode": "cheap_embed", "dtype": "float32",
        "experts": _experts("a", "b", residual_scale=0.5),
    }  # fmt: skip
    if architecture:
        recipe["architecture"] = architecture
    if shared:
        recipe["shared_experts"] = _experts("a")
    answer = cli("merge", _write(tmp_path / "mix.yml", **recipe), tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["experts"] == 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    held = loaded.state_dict()
    models = {name: open_weights(tmp_path / name) for name in ("base", "a", "b")}
    for name in models["base"].names():
        if ".mlp." not in name:
            assert torch.equal(held[name], models["base"].read(name)), name
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp"
        up = [torch.cat([models[m].read(f"{prefix}.{part}.weight") for part in ("gate_proj", "up_proj")]) for m in "ab"]
        assert torch.equal(held[f"{prefix}.experts.gate_up_proj"], torch.stack(up))
        down = [models[m].read(f"{prefix}.down_proj.weight") * 0.5 for m in "ab"]
        assert torch.equal(held[f"{prefix}.experts.down_proj"], torch.stack(down))
        gate = held[f"{prefix}.gate.weight"]
        embedding = models["base"].read("model.embed_tokens.weight")
        for number, row in enumerate(gate):
            text = (tokenizer.bos_token or "") + f"w{3 * number} w{3 * number + 1}"
            total = embedding[tokenizer(text, add_special_tokens=False).input_ids].sum(0)
            torch.testing.assert_close(row, total / total.norm())
        if shared:
            assert torch.equal(
                held[f"{prefix}.shared_expert.down_proj.weight"], models["a"].read(f"{prefix}.down_proj.weight")
            )
            torch.testing.assert_close(held[f"{prefix}.shared_expert_gate.weight"][0], gate[0])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hidden", "hidden_last", "hidden_avg"])
def test_gates_of_hidden_states_are_those_of_the_base(
    tmp_path: Path, dense: Callable[..., Path], cli: Callable[..., Any], mode: str
) -> None:
    """Prompts of different lengths, each read by itself: padding weighs nothing. Negative prompts are taken away."""
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("base", "a", "b")):
        dense(name, "Llama", seed)
    experts = _experts("a", "b")
    experts[0]["positive_prompts"] = ["w1", "w2 w3 w4 w5"]
    experts[1]["negative_prompts"] = ["w9 w10"]
    file = _write(tmp_path / "mix.yaml", base_model="base", gate_mode=mode, experts=experts)
    assert cli("merge", file, tmp_path / "out").code == 0
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)

    def told(*prompts: list[int]) -> torch.Tensor:
        rows = []
        for prompt in prompts:
            with torch.no_grad():
                states = base(torch.tensor([[1, *prompt]]), output_hidden_states=True).hidden_states[:-1]
            states = torch.stack([state[0] for state in states])
            rows.append(states.mean(1) if mode == "hidden_avg" else states[:, -1])
        return torch.stack(rows).mean(0)

    first, second = told([4], [5, 6, 7, 8]), told([6, 7]) - told([12, 13])
    written = open_weights(tmp_path / "out")
    for layer in range(2):
        gate = written.read(f"model.layers.{layer}.block_sparse_moe.gate.weight")
        for row, want in zip(gate, (first[layer], second[layer]), strict=True):
            torch.testing.assert_close(row, want / want.norm(), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_noise_and_random_gates_are_of_the_seed_alone(
    tmp_path: Path, dense: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        dense(name, "Llama", seed)
    experts = [{"source_model": name, "noise_scale": 0.1} for name in ("a", "b")]
    for mode, spread in (("random", 1.0), ("uniform_random", 1 / (3 * 16) ** 0.5)):
        file = _write(tmp_path / "mix.yaml", base_model="base", gate_mode=mode, experts=experts)
        outs = {}
        for out, seed in (("one", 1), ("same", 1), ("other", 2)):
            arguments = ("--seed", seed, "--overwrite", "--threads", 1 if out == "one" else 2)
            assert cli("merge", file, tmp_path / out, *arguments).code == 0
            outs[out] = open_weights(tmp_path / out)
        gate = "model.layers.1.block_sparse_moe.gate.weight"
        matrix = "model.layers.1.block_sparse_moe.experts.1.w3.weight"
        for name in (gate, matrix):
            assert torch.equal(outs["one"].read(name), outs["same"].read(name))
            assert not torch.equal(outs["one"].read(name), outs["other"].read(name))
        assert float(outs["one"].read(gate).std()) == pytest.approx(spread, rel=0.4)
        noise = outs["one"].read(matrix) - open_weights(tmp_path / "b").read("model.layers.1.mlp.up_proj.weight")
        assert float(noise.std()) == pytest.approx(0.1, rel=0.15)


@pytest.mark.slow
def test_deepseek_has_one_shared_expert_without_a_gate(
    tmp_path: Path, dense: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    for seed, name in enumerate(("base", "a")):
        dense(name, "Llama", seed)
    recipe = {
        "base_model": "base", "architecture": "deepseek", "gate_mode": "random",
        "experts": [{"source_model": "a"}, {"source_model": "base"}],
        "shared_experts": [{"source_model": "a", "residual_scale": 0.1}],
    }  # fmt: skip
    assert cli("merge", _write(tmp_path / "mix.yaml", **recipe), tmp_path / "out").code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["n_routed_experts"], config["n_shared_experts"], config["num_experts_per_tok"]) == (2, 1, 1)
    written, source = open_weights(tmp_path / "out"), open_weights(tmp_path / "a")
    shared = written.read("model.layers.0.mlp.shared_experts.down_proj.weight")
    torch.testing.assert_close(shared, source.read("model.layers.0.mlp.down_proj.weight") * 0.1)
    assert not [name for name in written.names() if "shared_expert_gate" in name]


# ---------------------------------------------------------------------- what cannot be


def test_what_is_wrong_with_a_file_is_said_with_its_key(tmp_path: Path, cli: Callable[..., Any]) -> None:
    wrong = {
        "experts[1] has no positive_prompts": {"experts": [*_experts("a"), {"source_model": "b"}]},
        "a prompt is empty": {"experts": [{"source_model": "a", "positive_prompts": [" "]}]},
        "all experts have the same prompts": {
            "experts": [{"source_model": x, "positive_prompts": ["w"]} for x in "ab"]
        },
        "got experts_per_token 3 for 2 experts": {"experts": _experts("a", "b"), "experts_per_token": 3},
        "gate_mod": {"experts": _experts("a", "b"), "gate_mod": "hidden"},
        "no such model": {"experts": _experts("a", "b")},
    }
    for said, recipe in wrong.items():
        answer = cli("merge", _write(tmp_path / "mix.yaml", base_model="nowhere", **recipe), tmp_path / "out")
        assert answer.code == 2
        assert said in answer.err
        assert len(answer.err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_models_that_make_no_mixture_are_refused(
    tmp_path: Path, dense: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    dense("base", "Llama", 0)
    dense("wide", "Llama", 1, intermediate_size=32)
    dense("qwen", "Qwen2", 1)
    dense("biased", "Llama", 1, attention_bias=True)
    for experts, more, said in (
        (("base", "wide"), {}, "wide:model.layers.0.mlp.gate_proj.weight: got [32, 16], expected [24, 16]"),
        (("base", "qwen"), {}, "the models are of several kinds: base is llama and qwen is qwen2"),
        (("base", "base"), {"architecture": ""}, "unknown architecture ''"),
        (("base", "base"), {"architecture": "mixtrol"}, "unknown architecture 'mixtrol'"),
        (("base", "base"), {"architecture": "qwen"}, "qwen has 1 shared experts, not 0"),
        (("biased", "biased"), {"base_model": "biased"}, "a mixtral mixture has no place for it"),
    ):
        recipe = {
            "base_model": "base", "gate_mode": "random", "experts": [{"source_model": name} for name in experts], **more
        }  # fmt: skip
        answer = cli("merge", _write(tmp_path / "mix.yaml", **recipe), tmp_path / "out")
        assert answer.code == 2, said
        assert said in answer.err
        assert not (tmp_path / "out").exists()
    file = _write(
        tmp_path / "mix.yaml", base_model="base", gate_mode="random", experts=[{"source_model": "base"}]
    )  # fmt: skip
    answer = cli("merge", file, tmp_path / "out", "--as-lora", 4)
    assert answer.code == 2
    assert "has no effect without a merge recipe" in answer.err


def test_a_plan_of_a_mixture_is_like_any(dense: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]) -> None:
    for seed, name in enumerate(("base", "one", "two")):
        dense(name, "Llama", seed)
    recipe = _write(tmp_path / "mix.yaml", base_model="base", gate_mode="hidden", experts=_experts("one", "two"))
    answer = cli("plan", recipe, "--json")
    assert answer.code == 0, answer.err
    plan = json.loads(answer.out)
    assert {"passes", "bytes_read", "bytes_written", "peak_bytes", "steps"} <= plan.keys()
    assert cli("plan", recipe, "--all").code == 0
    assert "a recipe file" in cli("plan", recipe, "--rest", "base").err
    merged = cli("merge", recipe, tmp_path / "out", "--json")
    assert json.loads(merged.out)["bytes_written"] == plan["bytes_written"]
    assert json.loads(merged.out)["tensors"] == len(plan["steps"])


def test_a_gate_prompt_beyond_the_context_is_refused(
    dense: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    for seed, name in enumerate(("base", "one", "two")):
        dense(name, "Llama", seed, max_position_embeddings=8)
    experts = [*_experts("one"), {"source_model": "two", "positive_prompts": ["w5 " * 8]}]
    recipe = _write(tmp_path / "mix.yaml", base_model="base", gate_mode="hidden", experts=experts)
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    assert "the prompt 'w5 w5" in answer.err
    assert "has 9 tokens, and the model reads at most 8. Shorten it." in answer.err
    assert not (tmp_path / "out").exists()
