"""Adapters trained on a base of another shape: an untied head, a resized vocabulary, a classifier; equal to PEFT's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.weights import open_weights

pytestmark = pytest.mark.filterwarnings("ignore")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
_DECODER = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_ENCODER = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32, "pad_token_id": 1,
}  # fmt: skip


def _model(name: str) -> Any:
    import transformers as tf

    torch.manual_seed(0)
    makers: dict[str, Callable[[], Any]] = {
        "untied": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_DECODER, tie_word_embeddings=False)),
        "tied": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_DECODER, tie_word_embeddings=True)),
        "gpt2": lambda: tf.GPT2LMHeadModel(
            tf.GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
        ),
        "t5": lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
        ),
        "masked": lambda: tf.BertForMaskedLM(tf.BertConfig(**_ENCODER)),
        "pooled": lambda: tf.BertForPreTraining(tf.BertConfig(**_ENCODER)),
        "roberta": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**_ENCODER)),
    }
    model = makers[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("bases"), set[str]()

    def base(name: str) -> Path:
        if name not in made:
            _model(name).save_pretrained(folder / name)
            made.add(name)
        return folder / name

    return base


def _adapted(model: Any, out: Path, save: Any = "auto", **settings: Any) -> Any:
    """The live model with an adapter of random numbers, saved at `out`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    live = get_peft_model(model, LoraConfig(**{"r": 4, **settings}))
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    live.save_pretrained(out, save_embedding_layers=save)
    return live.eval()


def _answer(model: Any) -> torch.Tensor:
    with torch.no_grad():
        more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
        out = model(input_ids=IDS, **more)
    return out.logits if hasattr(out, "logits") else torch.cat((out.start_logits, out.end_logits))


def _merge(cli: Any, base: Path, folder: Path) -> Any:
    recipe = {"genepool": 1, "method": "linear", "models": [f"{base}+{folder / 'adapter'}"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return cli("merge", folder / "recipe.yaml", folder / "out")


def _check(cli: Any, loads: Any, base: Path, folder: Path, live: Any) -> dict[str, Any]:
    """The merge answers as the live model does and misses nothing; its config."""
    answer = _merge(cli, base, folder)
    assert answer.code == 0, answer.err
    merged, info = loads.from_pretrained(folder / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(_answer(merged.eval()), _answer(live), atol=2e-5, rtol=1e-5)
    config: dict[str, Any] = json.loads((folder / "out" / "config.json").read_text())
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True}, True),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True}, True),
        ({"target_modules": ["embed_tokens"]}, False),
        ({"target_modules": ["embed_tokens"], "use_dora": True}, False),
        ({"target_modules": ["embed_tokens", "lm_head"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, True),
        ({"target_modules": ["embed_tokens"], "use_dora": True, "ensure_weight_tying": True}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}, True),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3], "lm_head": [3]}}, True),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [5]}}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [5, 3]}}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [3, 5]}}, False),
    ],
    ids=str,
)
def test_a_head_that_is_trained_is_untied_as_peft_unties_it(
    cli: Any, bases: Any, tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    base = bases("tied")
    live = _adapted(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", **settings)
    config = _check(cli, AutoModelForCausalLM, base, tmp_path, live)
    assert config["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) is not tied


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({"target_modules": ["wte"]}, False),
        ({"target_modules": ["wte"], "use_dora": True}, False),
        ({"target_modules": ["lm_head"]}, True),
        ({"target_modules": ["c_attn"], "modules_to_save": ["wte"]}, False),
        ({"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}, True),
    ],
    ids=str,
)
def test_a_head_that_peft_does_not_know_by_name_is_tied_as_the_file_says(
    cli: Any, bases: Any, tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    base = bases("gpt2")
    model = AutoModelForCausalLM.from_pretrained(base)
    live = _adapted(model, tmp_path / "adapter", ensure_weight_tying=True, **settings)
    assert _check(cli, AutoModelForCausalLM, base, tmp_path, live)["tie_word_embeddings"] is tied


@pytest.mark.slow
def test_what_is_tied_with_the_head_is_untied_with_it(cli: Any, bases: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    base = bases("masked")
    model = AutoModelForMaskedLM.from_pretrained(base)
    live = _adapted(model, tmp_path / "adapter", target_modules=["query", "word_embeddings"])
    _check(cli, AutoModelForMaskedLM, base, tmp_path, live)


@pytest.mark.slow
def test_a_file_with_the_factors_of_one_of_two_that_are_tied(cli: Any, bases: Any, tmp_path: Path) -> None:
    """PEFT ties the head's factors to the embedding's when it loads them; the head's alone say nothing of the other."""
    from transformers import AutoModelForCausalLM

    base, adapter = bases("tied"), tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    live = _adapted(model, adapter, save=False, target_modules=["embed_tokens"], ensure_weight_tying=True)
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    save_file({name: value for name, value in whole.items() if "lm_head" not in name}, file)
    assert _check(cli, AutoModelForCausalLM, base, tmp_path, live)["tie_word_embeddings"] is True
    save_file({name: value for name, value in whole.items() if "lm_head" in name}, file)
    answer = cli("inspect", f"{base}+{adapter}")
    assert answer.code == 2
    assert "holds what changes lm_head.weight and not what changes model.embed_tokens.weight" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "roberta"])
def test_trained_biases_that_are_tied_in_memory_alone(cli: Any, bases: Any, tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForMaskedLM

    base = bases(name)
    live = _adapted(
        AutoModelForMaskedLM.from_pretrained(base), tmp_path / "adapter", target_modules=["query"], bias="all"
    )
    assert _check(cli, AutoModelForMaskedLM, base, tmp_path, live)["tie_word_embeddings"] is True


@pytest.mark.slow
def test_what_a_class_always_ties_is_not_changed_alone(cli: Any, bases: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    base = bases("t5")
    live = _adapted(AutoModelForSeq2SeqLM.from_pretrained(base), tmp_path / "adapter", target_modules=["q", "lm_head"])
    _check(cli, AutoModelForSeq2SeqLM, base, tmp_path, live)
    _adapted(AutoModelForSeq2SeqLM.from_pretrained(base), tmp_path / "adapter", target_modules=["q", "shared"])
    answer = _merge(cli, base, tmp_path)
    assert answer.code == 2
    assert "changes shared.weight, which T5ForConditionalGeneration ties to encoder.embed_tokens.weight" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("rows", [44, 36])
@pytest.mark.parametrize("name", ["untied", "tied", "gpt2"])
@pytest.mark.parametrize("how", ["saved", "auto", "whole", "factors", "tokens"])
def test_a_resized_vocabulary_is_taken_over(
    cli: Any, bases: Any, tmp_path: Path, name: str, rows: int, how: str
) -> None:
    from transformers import AutoModelForCausalLM

    base = bases(name)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(rows, mean_resizing=False)
    layers, embedding = (["c_attn"], "wte") if name == "gpt2" else (["q_proj"], "embed_tokens")
    settings: dict[str, Any] = {
        "saved": {"target_modules": layers, "save": True},
        "auto": {"target_modules": layers},
        "whole": {"target_modules": layers, "modules_to_save": [embedding, "lm_head"]},
        "factors": {"target_modules": [*layers, embedding], "save": True},
        "tokens": {"target_modules": layers, "trainable_token_indices": [30, 33], "save": True},
    }[how]
    live = _adapted(model, tmp_path / "adapter", **settings)
    if (name, rows, how) == ("untied", 44, "factors"):
        # PEFT saves the embedding that is adapted and not the head, whose new rows nobody has.
        answer = _merge(cli, base, tmp_path)
        assert answer.code == 2
        assert "was trained with 44 tokens, and holds model.embed_tokens.weight with as many rows but not" in answer.err
        model.save_pretrained(tmp_path / "resized")
        return
    config = _check(cli, AutoModelForCausalLM, base, tmp_path, live)
    assert config["vocab_size"] == rows


@pytest.mark.slow
def test_rows_that_are_not_in_the_adapter_are_asked_for(cli: Any, bases: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bases("untied"))
    model.resize_token_embeddings(44)
    _adapted(model, tmp_path / "adapter", save=False, target_modules=["q_proj", "embed_tokens"])
    answer = _merge(cli, bases("untied"), tmp_path)
    assert answer.code == 2
    assert "was trained with 44 tokens where" in answer.err
    assert "another model" not in answer.err
    # The way out that the error names.
    plain = AutoModelForCausalLM.from_pretrained(bases("untied"))
    plain.resize_token_embeddings(44)
    plain.save_pretrained(tmp_path / "resized")
    assert _merge(cli, tmp_path / "resized", tmp_path).code == 0


@pytest.mark.parametrize("rows", [5, 3])
def test_rows_config_and_tokenizer_of_a_resized_vocabulary(
    cli: Any, save_model: Any, tmp_path: Path, rows: int
) -> None:
    embedding, layer = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"
    tensors = {embedding: torch.ones(4, 2), "lm_head.weight": torch.ones(4, 2), layer: torch.zeros(2, 2)}
    base = save_model("base", tensors, vocab_size=4)
    (base / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1, "c": 2}}, "of": "base"}')
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    whole = torch.arange(2.0 * rows).reshape(rows, 2)
    factors = {"lora_A.weight": torch.ones(1, 2), "lora_B.weight": torch.ones(2, 1)}
    held = {f"base_model.model.{layer.removesuffix('weight')}{part}": tensor for part, tensor in factors.items()}
    held |= {f"base_model.model.{embedding}": whole, "base_model.model.lm_head.weight": -whole}
    save_file(held, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    (adapter / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1, "d": 2}}, "of": "adapter"}')
    answer = _merge(cli, base, tmp_path)
    assert answer.code == 0, answer.err
    merged = open_weights(tmp_path / "out")
    assert torch.equal(merged.read(embedding), whole)
    assert torch.equal(merged.read("lm_head.weight"), -whole)
    assert torch.equal(merged.read(layer), torch.ones(2, 2))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows
    assert "adapter" in (tmp_path / "out" / "tokenizer.json").read_text()


_TASKS = {
    "SEQ_CLS": ("AutoModelForSequenceClassification", {"num_labels": 3}),
    "TOKEN_CLS": ("AutoModelForTokenClassification", {"num_labels": 5}),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("untied", "SEQ_CLS"),
        ("tied", "SEQ_CLS"),
        ("gpt2", "SEQ_CLS"),
        ("roberta", "SEQ_CLS"),
        ("pooled", "SEQ_CLS"),
        ("untied", "TOKEN_CLS"),
        ("masked", "TOKEN_CLS"),
        ("masked", "QUESTION_ANS"),
        ("gpt2", "QUESTION_ANS"),
    ],
)
def test_a_head_that_the_base_lacks_makes_it_that_architecture(
    cli: Any, bases: Any, tmp_path: Path, name: str, task: str
) -> None:
    import transformers

    loads = getattr(transformers, _TASKS[task][0])
    layers = {"gpt2": ["c_attn"], "untied": ["q_proj"], "tied": ["q_proj"]}.get(name, ["query"])
    model = loads.from_pretrained(bases(name), **_TASKS[task][1])
    live = _adapted(model, tmp_path / "adapter", target_modules=layers, task_type=task)
    config = _check(cli, loads, bases(name), tmp_path, live)
    assert config["architectures"] == [type(model).__name__]
    assert len(config["id2label"]) == model.config.num_labels


@pytest.mark.slow
def test_a_head_with_parts_that_nobody_has_is_refused(cli: Any, bases: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bases("masked"), num_labels=3)
    _adapted(model, tmp_path / "adapter", target_modules=["query"], task_type="SEQ_CLS")
    answer = _merge(cli, bases("masked"), tmp_path)
    assert answer.code == 2
    assert "has bert.pooler.dense.weight and 1 more, which neither the base nor the adapter holds" in answer.err
    # The way out that the error names.
    settings = {"target_modules": ["query"], "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "pooler"]}
    model = AutoModelForSequenceClassification.from_pretrained(bases("masked"), num_labels=3)
    live = _adapted(model, tmp_path / "adapter", **settings)
    _check(cli, AutoModelForSequenceClassification, bases("masked"), tmp_path, live)


@pytest.mark.slow
def test_an_adapter_of_replicated_layers_goes_on_the_model_that_its_refusal_names(
    cli: Any, bases: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    base = bases("untied")
    slices = [[0, 2], [1, 2]]
    model = AutoModelForCausalLM.from_pretrained(base)
    live = _adapted(model, tmp_path / "adapter", target_modules=["q_proj"], layer_replication=slices)
    answer = _merge(cli, base, tmp_path)
    assert answer.code == 2
    assert "Make that model first (a passthrough recipe of the same slices)" in answer.err
    sources = [{"sources": [{"model": str(base), "layer_range": one}]} for one in slices]
    deep = {"genepool": 1, "method": "passthrough", "slices": sources}
    (tmp_path / "deep.yaml").write_text(yaml.safe_dump(deep))
    assert cli("merge", tmp_path / "deep.yaml", tmp_path / "deep").code == 0
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**settings, "layer_replication": None}))
    _check(cli, AutoModelForCausalLM, tmp_path / "deep", tmp_path, live)
