"""PEFT's prefix and prompt tuning, read and written: both answer alike, and what would be lost is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parent.parent / "tasks"))

from tiny_models import CHARACTERS, character_tokenizer, write_classifier, write_model

from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.weights import open_weights
from genepool.weights.adapter_forms import make_form
from genepool.weights.formed.form_folder import write_form
from genepool.weights.formed.formed_weights import FormedWeights
from genepool.weights.formed.rotary import turned
from genepool.weights.formed.sites import sites_of

Cli = Callable[..., Any]
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])
WIDE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def write(folder: Path, kind: str) -> Path:
    """A model of random weights: grouped heads, scaled rotary positions, heads of a size of their own."""
    import transformers
    from transformers import AutoModelForCausalLM

    if kind in ("llama", "gpt2"):
        return write_model(folder, kind=kind)
    tokenizer = character_tokenizer()
    shared = {
        **WIDE, "vocab_size": len(CHARACTERS) + 4, "num_key_value_heads": 2, "initializer_range": 0.6,
        "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 40}
    configs: dict[str, Callable[[], Any]] = {
        "grouped": lambda: transformers.LlamaConfig(**shared),
        "yarn": lambda: transformers.LlamaConfig(**{**shared, "max_position_embeddings": 160, "rope_parameters": yarn}),
        "own size": lambda: transformers.Qwen3Config(**{**shared, "head_dim": 6}),
        "interleaved": lambda: transformers.CohereConfig(**shared),
        "sliding": lambda: transformers.MistralConfig(**{**shared, "sliding_window": 4}),
    }
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(configs[kind]()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    world, made = tmp_path_factory.mktemp("prompts"), {}

    def find(kind: str) -> Path:
        if kind not in made:
            made[kind] = write(world / kind, kind)
        return made[kind]

    return find


def peft_adapter(base: Path, out: Path, form: str, length: int = 3, **settings: Any) -> Any:
    """PEFT's own adapter with random numbers, saved; and the model that it is in."""
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}[form]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base).eval(),
        config(task_type="CAUSAL_LM", num_virtual_tokens=length, **settings),
    )
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    model.save_pretrained(str(out))
    return model.eval()


def theirs(model: Any, length: int = 0) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found[:, found.shape[1] - IDS.shape[1] :]


def ours(reference: str) -> torch.Tensor:
    model: Any = open_model(reference).load()
    with torch.inference_mode():
        found: torch.Tensor = model.model(input_ids=IDS).logits
    return found


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-3 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "grouped", "yarn", "own size", "interleaved"])
@pytest.mark.parametrize("form", ["prefix", "prompt"])
def test_an_adapter_answers_as_in_peft_and_goes_there_again(
    cli: Cli, base_of: Callable[[str], Path], tmp_path: Path, kind: str, form: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = base_of(kind)
    expected = theirs(peft_adapter(base, tmp_path / "theirs", form))
    plain = ours(str(base))
    found = ours(f"{base}+{tmp_path / 'theirs'}")
    close(found, expected)
    assert float((found - plain).norm()) > 0.05 * float(plain.norm())
    answer = cli("export", f"{base}+{tmp_path / 'theirs'}", tmp_path / "again", "--type", "peft", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["kind"] == f"an adapter of PEFT's {form} tuning"
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "again").eval()
    close(theirs(loaded), expected)
    # There and back it is the same numbers, up to the rounding of two turns.
    files = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "again")]
    torch.testing.assert_close(files[1]["prompt_embeddings"], files[0]["prompt_embeddings"], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["prefix", "prompt"])
def test_what_we_train_answers_alike_in_peft(
    cli: Cli, base_of: Callable[[str], Path], tmp_path: Path, form: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = base_of("llama")
    weights, made = open_weights(base), make_form(form, {"length": 4}, (), "")
    dice = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(shape, generator=dice) for name, shape in made.shapes(sites_of(weights)).items()}
    write_form(tmp_path / "form", made, tensors, {"name": "base", "fingerprint": weights.fingerprint()}, 0, {})
    expected = ours(f"{base}+{tmp_path / 'form'}")
    for name, arguments in (
        ("whole", (f"{base}+{tmp_path / 'form'}", tmp_path / "whole")),
        ("alone", (tmp_path / "form", tmp_path / "alone", "--base", base)),
    ):
        answer = cli("export", *arguments, "--type", "peft")
        assert answer.code == 0, answer.err
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / name).eval()
        close(theirs(loaded), expected)
        said = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert said["base_model_name_or_path"] == str(base)
        # PEFT writes on from a prompt of several tokens as we do.
        asked = {"input_ids": IDS[:1], "attention_mask": torch.ones_like(IDS[:1]), "max_new_tokens": 4}
        with torch.inference_mode():
            written = loaded.generate(**asked, do_sample=False, eos_token_id=None)[0, -4:]
        model: Any = open_model(f"{base}+{tmp_path / 'form'}").load()
        own = model.model.generate(**asked, do_sample=False, eos_token_id=None)[0, -4:]
        assert torch.equal(written, own)
    assert cli("export", tmp_path / "form", tmp_path / "alone", "--base", base, "--type", "peft").code == 2
    again = cli("export", tmp_path / "form", tmp_path / "alone", "--base", base, "--type", "peft", "--overwrite")
    assert again.code == 0, again.err


def test_a_projected_prefix_is_what_it_was_projected_to(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    base = base_of("grouped")
    expected = theirs(peft_adapter(base, tmp_path / "p", "prefix", prefix_projection=True, encoder_hidden_size=5))
    close(ours(f"{base}+{tmp_path / 'p'}"), expected)


def test_keys_are_turned_as_the_class_turns_them(base_of: Callable[[str], Path]) -> None:
    """With one place between them, entry i and its partner turn by the angle theta^(-2i/d): a rotation by hand."""
    weights = open_weights(base_of("llama"))
    keys = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    angles = 10_000.0 ** (-torch.arange(4) / 4) * 2
    first, second = keys[..., :4], keys[..., 4:]
    expected = torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1
    )
    torch.testing.assert_close(turned(weights, keys, 2), expected)
    torch.testing.assert_close(turned(weights, turned(weights, keys, 2), -2), keys)


@pytest.fixture
def adapter(base_of: Callable[[str], Path], tmp_path: Path) -> Path:
    peft_adapter(base_of("llama"), tmp_path / "adapter", "prefix")
    return tmp_path / "adapter"


def test_it_is_asked_and_never_merged(cli: Cli, adapter: Path, base_of: Callable[[str], Path], tmp_path: Path) -> None:
    reference = f"{base_of('llama')}+{adapter}"
    opened = open_weights(reference)
    assert isinstance(opened, FormedWeights)
    assert opened.fingerprint() != open_weights(base_of("llama")).fingerprint()
    told = cli("generate", reference, "--prompt", "abc=", "--max-new-tokens", 3)
    assert told.code == 0, told.err
    applied = cli("skill", "apply", adapter, "--base", base_of("llama"), "--out", tmp_path / "whole")
    assert applied.code == 2
    assert "the form prefix does not fold into weights" in applied.err
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_virtual_tokens": 4}, "num_virtual_tokens: got 4, and the file has 3"),
        ({"num_virtual_tokens": "3"}, "num_virtual_tokens: got '3'"),
        ({"task_type": "SEQ_CLS"}, "task_type: got 'SEQ_CLS', expected CAUSAL_LM"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules: only decoders are read"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: modules that are trained whole"),
        ({"twist": 3}, "twist: genepool does not know this setting of PREFIX_TUNING adapters"),
    ],
)
def test_a_wrong_setting_is_refused(
    adapter: Path, base_of: Callable[[str], Path], change: dict[str, Any], said: str
) -> None:
    place = adapter / "adapter_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **change}))
    with pytest.raises(InputError) as refused:
        open_weights(f"{base_of('llama')}+{adapter}")
    assert f"adapter_config.json:{said}" in str(refused.value)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "prompt_embeddings: the tensor is missing"),
        ({"prompt_embeddings": torch.zeros(3)}, "expected rows of floats"),
        ({"prompt_embeddings": torch.zeros(0, 64)}, "expected rows of floats"),
        ({"prompt_embeddings": torch.zeros(3, 64, dtype=torch.int64)}, "expected rows of floats"),
        ({"prompt_embeddings": torch.zeros(3, 60)}, "has shape [3, 60], expected [3, 64] for"),
        ({"prompt_embeddings": torch.zeros(3, 64), "more": torch.zeros(1)}, "is not a known tensor of prompts"),
    ],
)
def test_a_wrong_tensor_is_refused_before_it_is_read(
    adapter: Path, base_of: Callable[[str], Path], tensors: dict[str, torch.Tensor], said: str
) -> None:
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError) as refused:
        open_weights(f"{base_of('llama')}+{adapter}")
    assert said in str(refused.value)


def test_nan_is_refused_when_it_is_read(cli: Cli, adapter: Path, base_of: Callable[[str], Path]) -> None:
    save_file({"prompt_embeddings": torch.full((3, 64), float("nan"))}, adapter / "adapter_model.safetensors")
    answer = cli("generate", f"{base_of('llama')}+{adapter}", "--prompt", "a=")
    assert answer.code == 2
    assert "prompt_embeddings: holds NaN or infinity" in answer.err


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("gpt2", "has no rotary positions, and PEFT lets an input begin behind a prefix"),
        ("sliding", "its attention reaches back a limited number of places"),
    ],
)
def test_what_peft_computes_otherwise_is_refused_both_ways(
    cli: Cli, base_of: Callable[[str], Path], tmp_path: Path, kind: str, said: str
) -> None:
    base = base_of(kind)
    peft_adapter(base, tmp_path / "theirs", "prefix")
    answer = cli("generate", f"{base}+{tmp_path / 'theirs'}", "--prompt", "a=")
    assert answer.code == 2
    assert said in answer.err
    weights, made = open_weights(base), make_form("prefix", {"length": 2}, (), "")
    tensors = {name: torch.randn(shape) for name, shape in made.shapes(sites_of(weights)).items()}
    write_form(tmp_path / "form", made, tensors, {"name": "base", "fingerprint": weights.fingerprint()}, 0, {})
    answer = cli("export", f"{base}+{tmp_path / 'form'}", tmp_path / "out", "--type", "peft")
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "out").exists()


def test_forms_that_peft_has_not_are_refused(cli: Cli, base_of: Callable[[str], Path], tmp_path: Path) -> None:
    base = base_of("llama")
    weights = open_weights(base)

    def export(name: str, options: dict[str, Any], weights: Any = weights, base: Path = base) -> str:
        made = make_form(name, options, (), "")
        tensors = {key: torch.zeros(shape) for key, shape in made.all_shapes(sites_of(weights)).items()}
        told = {"name": "base", "fingerprint": weights.fingerprint()}
        write_form(tmp_path / name, made, tensors, told, 0, {})
        answer = cli("export", f"{base}+{tmp_path / name}", tmp_path / "out", "--type", "peft")
        assert answer.code == 2
        assert answer.err.count("error: ") == 1
        assert not (tmp_path / "out").exists()
        return str(answer.err)

    assert "what computes with them would be lost" in export("parallel_adapter", {"bottleneck": 2})
    assert "skill convert" in export("hydra", {})
    classifier = write_classifier(tmp_path / "classifier")
    lost = export("prefix", {"length": 2}, open_weights(classifier), classifier)
    assert "the head of classes that was trained beside it would be lost" in lost
