"""A model made from `Weights` is the model transformers loads, bit for bit; assigning is loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import InputError
from genepool.tasks import LanguageModel
from genepool.weights import open_weights

KINDS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True},
    {"kind": "gpt2"},
    {"kind": "gpt2", "tie_word_embeddings": False},
    {"kind": "gpt_neox"},
    {"kind": "mixtral"},
]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


def resize(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


def states(model: Any) -> dict[str, Any]:
    return dict(model.state_dict())


def same(one: Any, other: Any) -> bool:
    import torch

    first, second = states(one), states(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_loading_is_what_transformers_does(tiny_model: Callable[..., Path], kind: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_model(**kind)
    ours, theirs = LanguageModel.load(open_weights(folder)).model, AutoModelForCausalLM.from_pretrained(folder).eval()
    assert same(ours, theirs)
    ids = torch.arange(4, 14).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert not ours.training


@pytest.mark.parametrize("kind", KINDS)
def test_assigning_is_loading(tiny_model: Callable[..., Path], kind: dict[str, Any]) -> None:
    first, second = (open_weights(tiny_model(name, seed=seed, **kind)) for name, seed in (("a", 1), ("b", 2)))
    held = {name: first.read(name).clone() for name in first.names()}
    model = LanguageModel.load(first)
    inside = model.model
    model.assign(second)
    assert model.model is inside
    assert (model.name, model.fingerprint) == (second.name, second.fingerprint())
    assert same(model.model, LanguageModel.load(second).model)
    # Neither the file nor a map of it is written to.
    assert all(first.read(name).equal(held[name]) for name in held)
    model.assign(first)
    assert same(model.model, LanguageModel.load(first).model)


def test_a_head_that_merely_equals_the_embedding_is_loaded_as_a_head(tiny_model: Callable[..., Path]) -> None:
    def copy_embedding(tensors: dict[str, Any]) -> dict[str, Any]:
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}

    equal = open_weights(rewrite(tiny_model("equal"), copy_embedding))
    assert not equal.aliases()
    model = LanguageModel.load(equal)
    assert model.model.lm_head.weight.equal(model.model.model.embed_tokens.weight)
    other = LanguageModel.load(open_weights(tiny_model("other", seed=3)))
    other.assign(equal)
    assert same(other.model, model.model)


def test_names_without_the_inner_models_prefix_are_understood(tiny_model: Callable[..., Path]) -> None:
    def without(tensors: dict[str, Any]) -> dict[str, Any]:
        return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}

    plain = LanguageModel.load(open_weights(tiny_model("plain", kind="gpt2")))
    bare = open_weights(rewrite(tiny_model("bare", kind="gpt2"), without))
    assert same(LanguageModel.load(bare).model, plain.model)
    other = LanguageModel.load(open_weights(tiny_model("other", kind="gpt2", seed=3)))
    other.assign(bare)
    assert same(other.model, plain.model)


@pytest.mark.parametrize(
    ("held", "wrong"),
    [
        ({}, {"hidden_size": 8}),
        ({}, {"intermediate_size": 16}),
        ({}, {"num_hidden_layers": 3}),
        ({"num_hidden_layers": 3}, {}),
        ({"tie_word_embeddings": True}, {}),
        ({}, {"tie_word_embeddings": True}),
        ({}, {"kind": "gpt2"}),
    ],
)
def test_another_architecture_is_refused_and_changes_nothing(
    tiny_model: Callable[..., Path], held: dict[str, Any], wrong: dict[str, Any]
) -> None:
    weights = open_weights(tiny_model("held", **held))
    model = LanguageModel.load(weights)
    before = {name: tensor.clone() for name, tensor in states(model.model).items()}
    with pytest.raises(InputError, match="Load it as a new model") as caught:
        model.assign(open_weights(tiny_model("wrong", seed=1, **wrong)))
    assert "wrong" in caught.value.where
    assert model.fingerprint == weights.fingerprint()
    assert all(tensor.equal(before[name]) for name, tensor in states(model.model).items())


def test_end_tokens_of_the_generation_config_end_answers(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model()
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": [2, 5]}))
    assert LanguageModel.load(open_weights(folder)).end_tokens == {2, 5}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda f: [path.unlink() for path in f.glob("*token*")],
            r"no usable tokenizer \(no file says its tokens\)",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "no-such"}'),
            "cannot be built as a causal",
        ),
        (lambda f: resize(f, hidden_size="x"), "'hidden_size' expected int"),
        (lambda f: resize(f, num_key_value_heads=0), "transformers cannot build the model"),
        (lambda f: rewrite(f, lambda t: {n: v for n, v in t.items() if n != "model.norm.weight"}), "lacks tensors"),
        (lambda f: rewrite(f, lambda t: {**t, "extra.weight": t["model.norm.weight"].clone()}), "unknown tensors"),
        (lambda f: rewrite(f, lambda t: {**t, "model.norm.weight": t["model.norm.weight"][:3].clone()}), "do not fit"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(
    tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], said: str
) -> None:
    folder = tiny_model()
    spoil(folder)
    capfd.readouterr()
    with pytest.raises(InputError, match=said) as caught:
        LanguageModel.load(open_weights(folder))
    assert str(folder) in str(caught.value)
    # The error is the one thing said: transformers' own report stays out of it.
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_no_such_device_or_number_format_is_refused(tiny_model: Callable[..., Path]) -> None:
    weights = open_weights(tiny_model())
    with pytest.raises(InputError, match="got 'abacus', which cannot be used here"):
        LanguageModel.load(weights, device="abacus")
    with pytest.raises(InputError, match="float31"):
        LanguageModel.load(weights, dtype="float31")


def test_a_model_left_half_assigned_has_no_fingerprint(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_weights(tiny_model("a")), open_weights(tiny_model("b", seed=1))
    model = LanguageModel.load(first)
    read = second.read

    def fail_at_the_norm(name: str) -> Any:
        if name == "model.norm.weight":
            raise OSError("the disk is gone")
        return read(name)

    monkeypatch.setattr(second, "read", fail_at_the_norm)
    with pytest.raises(OSError, match="disk"):
        model.assign(second)
    with pytest.raises(InputError, match="interrupted the assignment"):
        _ = model.fingerprint
    model.assign(first)
    assert same(model.model, LanguageModel.load(first).model)


def test_a_chat_template_that_refuses_is_the_users_error(tiny_model: Callable[..., Path]) -> None:
    model = LanguageModel.load(open_weights(tiny_model()))
    with pytest.raises(InputError, match="no chat template"):
        model.chat_text([{"role": "user", "content": "a"}])
    model.tokenizer.chat_template = "{{ raise_exception('no system message here') }}"
    with pytest.raises(InputError, match="no system message here"):
        model.chat_text([{"role": "system", "content": "a"}])


def test_a_merge_in_memory_has_the_tokenizer_its_recipe_names(tiny_model: Callable[..., Path]) -> None:
    from genepool.merging import Recipe, plan_merge

    base, other = tiny_model("a", seed=1), tiny_model("b", seed=2)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "theirs"}))
    recipe = {"method": "task_arithmetic", "base": str(base), "models": [str(other)]}

    def template(**more: Any) -> Any:
        return LanguageModel.load(plan_merge(Recipe(**recipe, **more)).weights()).tokenizer.chat_template

    assert template() is None
    assert template(tokenizer=str(other)) == "theirs"
    assert template(tokenizer=str(other), chat_template="{{ ours }}") == "{{ ours }}"


def test_what_is_predicted_of_answers_is_that_of_the_whole_text_and_prompts_are_spared(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from genepool.tasks.answers import Question

    model = LanguageModel.load(open_weights(tiny_model()))
    asked = [Question("a", "R:hello=", "olleh"), Question("b", "R:ab=", "ba"), Question("c", "S:zyx=", "xyz")]
    (batch,) = model.answer_batches(asked, 8, closed=True, packed=False)
    with torch.no_grad():
        whole = model.model(**batch.inputs, use_cache=False).logits[batch.rows, batch.places]
        kept: list[int] = []
        forward = model.model.forward
        assert model.last_logits_only

        def noting(*arguments: Any, **named: Any) -> Any:
            kept.append(named["logits_to_keep"])
            return forward(*arguments, **named)

        monkeypatch.setattr(model.model, "forward", noting)
        spared = model.answer_logits(batch)
    width = batch.inputs["input_ids"].shape[1]
    assert kept == [width - int(batch.places.min())]
    assert kept[0] < width
    assert torch.allclose(spared, whole, atol=1e-5)


def test_a_watched_model_gives_its_last_layer_every_place(tiny_model: Callable[..., Path]) -> None:
    """Otherwise it is spared the places before the first answer, which the logits do not tell."""
    import torch

    from genepool.tasks.answers import Question

    model = LanguageModel.load(open_weights(tiny_model()))
    (batch,) = model.answer_batches([Question("q", "abc=", "de"), Question("q", "ab=", "d")])
    seen: list[int] = []
    head = model.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    with torch.no_grad():
        spared = model.answer_logits(batch)
        with model.watched():
            whole = model.answer_logits(batch)
        again = model.answer_logits(batch)
    handle.remove()
    assert seen[0] == seen[2] < seen[1] == batch.inputs["input_ids"].shape[1]
    torch.testing.assert_close(spared, whole)
    torch.testing.assert_close(spared, again, rtol=0, atol=0)
