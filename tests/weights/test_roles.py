"""Roles from names and shapes: the families people merge, and the traps in their names."""

from __future__ import annotations

import pytest

from genepool.weights.roles import by_depth, infer_roles, layer_counts, rename_layer
from genepool.weights.stacks import main_stack
from genepool.weights.tensor_info import TensorInfo

MATRIX, VECTOR = (8, 8), (8,)


def _model(*patterns: str, layers: int = 3) -> dict[str, TensorInfo]:
    names = [p.replace("#", str(i)) for p in patterns for i in (range(layers) if "#" in p else [0])]
    shapes = {
        n: VECTOR if n.endswith(("norm.weight", "bias", "LayerNorm.weight", "ln_1.weight")) else MATRIX for n in names
    }
    return {name: TensorInfo(shape, "F32") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "part", "layer"),
    [
        ("model.layers.#.self_attn.q_proj.weight", "attention", 2),
        ("model.layers.#.self_attn.q_norm.weight", "norm", 2),
        ("model.layers.#.mlp.experts.7.w1.weight", "mlp", 2),
        ("model.layers.#.block_sparse_moe.experts.0.w2.weight", "mlp", 2),
        ("model.layers.#.input_layernorm.weight", "norm", 2),
        ("model.language_model.layers.#.mlp.gate_proj.weight", "mlp", 2),
        ("transformer.h.#.attn.c_attn.weight", "attention", 2),
        ("transformer.h.#.attn.c_proj.weight", "attention", 2),
        ("transformer.h.#.mlp.c_proj.bias", "mlp", 2),
        ("h.#.ln_1.weight", "norm", 2),
        ("gpt_neox.layers.#.mlp.dense_h_to_4h.weight", "mlp", 2),
        ("bert.encoder.layer.#.attention.self.query.weight", "attention", 2),
        ("bert.encoder.layer.#.attention.output.dense.weight", "attention", 2),
        ("bert.encoder.layer.#.intermediate.dense.weight", "mlp", 2),
        ("bert.encoder.layer.#.output.dense.weight", "mlp", 2),
        ("bert.encoder.layer.#.output.LayerNorm.weight", "norm", 2),
        ("encoder.block.#.layer.1.DenseReluDense.wi_0.weight", "mlp", 2),
        ("decoder.block.#.layer.1.EncDecAttention.k.weight", "attention", 2),
        ("vision_model.encoder.layers.#.mlp.fc1.weight", "mlp", 2),
    ],
)
def test_tensors_of_layers(name: str, part: str, layer: int) -> None:
    infos = _model(name, name.rsplit(".", 2)[0] + ".other.weight")
    assert infer_roles(infos)[name.replace("#", "2", 1)].part == part
    assert infer_roles(infos)[name.replace("#", "2", 1)].layer == layer


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("wpe.weight", "embedding"),
        ("shared.weight", "embedding"),
        ("bert.embeddings.word_embeddings.weight", "embedding"),
        ("bert.embeddings.LayerNorm.weight", "norm"),
        ("lm_head.weight", "head"),
        ("embed_out.weight", "head"),
        ("score.weight", "head"),
        ("model.norm.weight", "norm"),
    ],
)
def test_tensors_outside_layers(name: str, part: str) -> None:
    infos = _model("model.layers.#.mlp.up_proj.weight", "model.layers.#.self_attn.k_proj.weight", name)
    role = infer_roles(infos)[name]
    assert role.layer is None
    assert role.part == part


def test_experts_are_not_layers() -> None:
    infos = _model(*(f"model.layers.#.mlp.experts.{e}.up_proj.weight" for e in range(9)), layers=2)
    assert layer_counts(infer_roles(infos)) == {"model.layers": 2}


def test_the_main_stack_is_the_one_with_the_most_tensors() -> None:
    infos = _model("encoder.block.#.layer.0.SelfAttention.q.weight", "encoder.block.#.layer.0.SelfAttention.v.weight")
    infos |= _model(*(f"decoder.block.#.layer.{i}.DenseReluDense.wo.weight" for i in range(4)))
    assert main_stack(infer_roles(infos)) == "decoder.block"


def test_renaming_changes_the_layer_and_nothing_else() -> None:
    infos = _model("model.layers.#.mlp.experts.1.up_proj.weight", "model.layers.#.mlp.experts.1.down_proj.weight")
    name = "model.layers.1.mlp.experts.1.up_proj.weight"
    assert rename_layer(name, infer_roles(infos)[name], 17) == "model.layers.17.mlp.experts.1.up_proj.weight"


def test_depth_goes_from_the_embeddings_through_the_layers_to_the_head() -> None:
    names = ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"]
    names += [f"model.layers.{i}.{part}.weight" for i in (10, 2, 0, 1) for part in ("mlp.up_proj", "self_attn.q_proj")]
    found = by_depth(names)
    assert found[0] == "model.embed_tokens.weight"
    assert [int(name.split(".")[2]) for name in found[1:9]] == [0, 0, 1, 1, 2, 2, 10, 10]
    assert found[9:] == ["model.norm.weight", "lm_head.weight"]
    assert by_depth([f"{name}:A" for name in names]) == [f"{name}:A" for name in found]
