"""What transformers makes of a config: asked of its classes, without weights, code of others or unbounded work."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from genepool.weights import architecture, meta_model
from genepool.weights.architecture import architecture_of, why_unknown
from genepool.weights.tensor_info import TensorInfo

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}
BERT = {**LLAMA, "model_type": "bert", "architectures": ["BertForMaskedLM"]}


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    architecture._answer.cache_clear()
    architecture._naming.cache_clear()


def test_what_a_class_is_made_of() -> None:
    found = architecture_of(LLAMA)
    assert found is not None
    assert (found.name, found.base_model_prefix) == ("LlamaForCausalLM", "model")
    assert found.tensors["model.layers.1.mlp.down_proj.weight"] == TensorInfo((8, 12), "F32")
    assert found.modules["model.layers.1.mlp.down_proj"] == "linear"
    assert found.modules["model.embed_tokens"] == "embedding"
    assert (found.input_embeddings, found.output_embeddings) == ("model.embed_tokens", "lm_head")


def test_ties_are_what_class_and_config_say_together() -> None:
    tied, untied = architecture_of(LLAMA), architecture_of({**LLAMA, "tie_word_embeddings": False})
    assert tied is not None
    assert untied is not None
    assert tied.ties == {"lm_head.weight": "model.embed_tokens.weight"}
    assert tied.tied_with("model.embed_tokens.weight") == ("model.embed_tokens.weight", "lm_head.weight")
    assert untied.ties == {}
    assert untied.tied_with("lm_head.weight") == ("lm_head.weight",)


def test_a_decoder_shares_its_bias_too_and_a_head_s_own_matrix_is_none_of_it() -> None:
    found = architecture_of(BERT)
    assert found is not None
    assert found.ties == {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


def test_names_of_older_files_are_named_as_transformers_names_them() -> None:
    found = architecture_of(BERT)
    assert found is not None
    stored = [name for name in found.tensors if not name.startswith("cls.predictions.decoder")]
    old = [
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for name in stored
    ]
    naming = found.naming([*old, "bert.pooler.dense.weight"])
    assert naming.in_memory("bert.embeddings.LayerNorm.gamma") == ("bert.embeddings.LayerNorm.weight",)
    assert naming.in_file("bert.embeddings.LayerNorm.weight") == ("bert.embeddings.LayerNorm.gamma",)
    assert naming.unexpected == ("bert.pooler.dense.weight",)
    assert naming.missing == ()


def test_a_body_s_file_is_named_with_the_head_s_prefix_and_what_it_lacks_is_said() -> None:
    found = architecture_of({**LLAMA, "tie_word_embeddings": False})
    assert found is not None
    body = [name.removeprefix("model.") for name in found.tensors if name != "lm_head.weight"]
    naming = found.naming(body)
    assert naming.in_memory("norm.weight") == ("model.norm.weight",)
    assert naming.missing == ("lm_head.weight",)


def test_experts_of_their_own_are_stacked_in_memory() -> None:
    mixtral = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 2}
    found = architecture_of({**mixtral, "num_key_value_heads": 2})
    assert found is not None
    experts = [
        f"model.layers.{n}.block_sparse_moe.experts.{e}.w{k}.weight" for n in (0, 1) for e in (0, 1) for k in (1, 2, 3)
    ]
    rest = [name.replace("mlp.gate", "block_sparse_moe.gate") for name in found.tensors if ".experts." not in name]
    naming = found.naming([*rest, *experts])
    assert (naming.unexpected, naming.missing) == ((), ())
    one = naming.conversion("model.layers.0.mlp.experts.down_proj")
    assert one is not None
    assert one.stored == tuple(f"model.layers.0.block_sparse_moe.experts.{e}.w2.weight" for e in (0, 1))
    assert one.operations == ("MergeModulelist(dim=0)",)
    assert naming.conversion(experts[0]).memory == ("model.layers.0.mlp.experts.gate_up_proj",)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"architectures": []}, "names no architecture"),
        ({"architectures": [3]}, "names no architecture"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "mine", "architectures": ["MineForCausalLM"]}, "no model_type 'mine'"),
        ({"architectures": ["MineForCausalLM"]}, "no class 'MineForCausalLM'"),
        ({"architectures": ["__class__"]}, "no model"),
        ({"architectures": ["LlamaConfig"]}, "no model"),
        ({"architectures": ["BertModel"]}, "not built of a config of model_type 'llama'"),
        ({"num_hidden_layers": "two"}, "cannot build LlamaForCausalLM"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers: 1,000,000,000,000"),
        ({"hidden_size": 10**10}, "hidden_size: 10,000,000,000"),
    ],
)
def test_what_names_no_architecture_is_unknown_with_the_reason(changed: dict[str, Any], why: str) -> None:
    assert architecture_of({**LLAMA, **changed}) is None
    assert why in why_unknown({**LLAMA, **changed})


def test_the_class_s_own_model_is_to_be_had_without_memory_for_its_weights() -> None:
    model = meta_model.model_of(LLAMA)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert meta_model.model_of(dict(LLAMA)) is model
    assert meta_model.model_of({**LLAMA, "model_type": "mine"}) is None


def test_infinity_in_a_config_is_read_as_transformers_writes_it() -> None:
    from transformers import Mamba2Config

    written = json.loads(Mamba2Config(hidden_size=8, num_heads=2, head_dim=8, num_hidden_layers=1).to_json_string())
    assert written["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    found = architecture_of({**written, "architectures": ["Mamba2ForCausalLM"]})
    assert found is not None
    assert found.name == "Mamba2ForCausalLM"


def test_no_config_is_no_architecture() -> None:
    assert architecture_of(None) is None


def test_building_stops_at_a_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_model, "MOST_PARTS", 40)
    assert "more than 40 parts" in why_unknown(LLAMA)


def test_building_stops_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    def endless(*_: Any) -> None:
        while True:
            time.sleep(0.001)

    monkeypatch.setattr(meta_model, "MOST_SECONDS", 0.05)
    monkeypatch.setattr(LlamaForCausalLM, "__init__", endless)
    assert "takes" in why_unknown(LLAMA)


def test_an_attention_that_a_config_names_is_not_fetched() -> None:
    named = {**LLAMA, "attn_implementation": "somebody/kernel", "_attn_implementation": "somebody/kernel"}
    assert architecture_of(named) is not None


@pytest.mark.slow
def test_the_second_question_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import json, sys\n"
        "from genepool.weights.architecture import architecture_of\n"
        "found = architecture_of(json.loads(sys.argv[1]))\n"
        "naming = found.naming(found.tensors)\n"
        "print(len(found.tensors), len(naming.renamed), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", program, json.dumps(LLAMA)], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [one.stdout.split() for one in said] == [["21", "21", "True", "True"], ["21", "21", "False", "False"]]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tensors": {"a": [[1], "F99"]}}', '{"name": 3}'])
def test_an_entry_that_makes_no_sense_is_asked_anew(text: str) -> None:
    from genepool.weights.fingerprint_cache import cache_folder

    first = architecture_of(LLAMA)
    (entry,) = (cache_folder() / "architectures").iterdir()
    entry.write_text(text)
    architecture._answer.cache_clear()
    assert architecture_of(LLAMA) == first
    assert entry.read_text() != text


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("detr", "DetrForObjectDetection"),
        ("upernet", "UperNetForSemanticSegmentation"),
        ("depth_anything", "DepthAnythingForDepthEstimation"),
        ("maskformer", "MaskFormerForInstanceSegmentation"),
    ],
)
def test_a_config_that_names_a_backbone_on_the_hub_reaches_no_network(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    from huggingface_hub import constants

    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError("a network was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    config = {"model_type": kind, "architectures": [name], "backbone": "someone/x", "use_timm_backbone": False}
    told = meta_model.describe(config, name)
    assert asked == []
    assert "building asks no network" in told["unknown"]
    assert not constants.HF_HUB_OFFLINE


def test_builds_in_several_threads_leave_ties_as_they_were() -> None:
    """transformers replaces a method of the base class while it builds: threads must not put it back crosswise."""
    from concurrent.futures import ThreadPoolExecutor

    from transformers import PreTrainedModel

    from genepool.weights.meta_model import describe

    before = PreTrainedModel.tie_weights
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 10}
    configs = [{"model_type": "llama", "num_hidden_layers": layers, **sizes} for layers in range(1, 13)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda config: describe(config, "LlamaForCausalLM"), configs))
    assert [sum(name.endswith("q_proj.weight") for name in one["tensors"]) for one in found] == list(range(1, 13))
    assert PreTrainedModel.tie_weights is before
