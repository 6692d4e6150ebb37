"""PEFT adapters on a base: equal to what PEFT itself merges, and refused when they do not fit."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.errors import InputError
from genepool.weights import Weights, open_weights


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("peft") / "base"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _adapter(base: Path, out: Path, **settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{"r": 3, "target_modules": "all-linear", **settings})
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(out)
    return model.merge_and_unload().state_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_alpha": 7, "use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 9}},
        {"use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["norm"]},
        {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    ],
)
def test_equals_what_peft_merges(base_folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = _adapter(base_folder, tmp_path / "adapter", **settings)
    weights = open_weights(f"{base_folder}+{tmp_path / 'adapter'}")
    for name in weights.names():
        torch.testing.assert_close(weights.read(name), expected[name], atol=1e-6, rtol=1e-6)


@pytest.fixture
def adapter(base_folder: Path, tmp_path: Path) -> Path:
    _adapter(base_folder, tmp_path / "adapter", target_modules=["q_proj"])
    return tmp_path / "adapter"


def test_the_delta_is_exact_and_absent_where_nothing_changed(base_folder: Path, adapter: Path) -> None:
    base = open_weights(base_folder)
    weights = open_weights(f"{base_folder}+{adapter}", base=base)
    changed = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(
        weights.delta(changed, base), weights.read(changed) - base.read(changed), atol=1e-6, rtol=0
    )
    assert weights.delta("model.norm.weight", base) is None
    assert Weights.delta(weights, "model.norm.weight", base).abs().max() == 0


def test_its_fingerprint_depends_on_base_factors_and_scaling(base_folder: Path, adapter: Path) -> None:
    first = open_weights(f"{base_folder}+{adapter}").fingerprint()
    assert first == open_weights(f"{base_folder}+{adapter}").fingerprint()
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 99}))
    assert open_weights(f"{base_folder}+{adapter}").fingerprint() != first


def test_a_lone_adapter_asks_for_its_base(adapter: Path) -> None:
    with pytest.raises(InputError, match=r"BASE\+"):
        open_weights(adapter)


def test_an_adapter_for_another_model_is_refused(base_folder: Path, adapter: Path, save_model: Any) -> None:
    other = save_model("other", {"model.layers.0.self_attn.q_proj.weight": torch.ones(5, 5)})
    with pytest.raises(InputError, match="made for another model"):
        open_weights(f"{other}+{adapter}")


def test_an_adapter_that_nobody_holds_lets_go_of_its_file(base_folder: Path, adapter: Path) -> None:
    """At once, not when garbage is looked for: a thousand are opened one after the other where skills are ranked."""
    base = open_weights(base_folder)
    gc.disable()
    try:
        opened = open_weights(adapter, base=base)
        moved = next(name for name in opened.names() if opened.moves(name, base))
        opened.delta_rows(moved, base, 0, 1)
        change = weakref.ref(opened.change)
        del opened
        assert change() is None
    finally:
        gc.enable()
