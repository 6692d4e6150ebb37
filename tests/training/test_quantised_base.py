"""A quantised base: factors are trained on it by transformers and its quantiser, or what lacks is named."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import QUICK, told

from genepool.tasks.quantised import quantised_network
from genepool.weights import Checkpoint, open_weights
from tests.tasks.tiny_models import write_model


def test_a_quantiser_that_is_not_there_is_named_with_how_to_install_it(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(small_world / "base", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    # HQQ is not dequantised here, so only its library can load it.
    told_so = {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": told_so}))
    if importlib.util.find_spec("hqq") is None:
        for command in (["evaluate", base, "--tasks"], ["train", "--base", base, "--out", tmp_path / "run"]):
            answer = cli(*command, small_world / "tasks" / "first")
            assert answer.code == 2
            assert "quantised by hqq, which is not installed" in answer.err
            assert "Install it: pip install hqq" in answer.err
            assert answer.err.splitlines()[-1].startswith(f"error: {base}: quantised by hqq")
    whole = cli("train", small_world / "tasks" / "first", "--base", base, "--full", "--out", tmp_path / "run")
    assert whole.code == 2
    assert "quantised by hqq, so its tensors cannot be trained. Train factors: --lora." in whole.err


def test_an_adapter_that_lies_in_a_quantised_model_s_folder_is_not_put_on_it(tmp_path: Path) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    # transformers loads every folder alike, quantised or not.
    folder = write_model(tmp_path / "m")
    expected = open_weights(folder)
    weight = expected.read("model.norm.weight")
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "someone/x"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    model = quantised_network(expected, LlamaForCausalLM, AutoConfig.from_pretrained(folder), torch.float32)
    assert torch.equal(model.state_dict()["model.norm.weight"], weight)
    assert not any("lora" in name for name in model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_factors_are_trained_on_a_quantised_base(
    bits: int, cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    said: dict[str, Any] = (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
        if bits == 4
        else {"load_in_8bit": True}
    )
    # Rows of whole blocks of 64: bitsandbytes misreads others on a processor.
    plain = write_model(tmp_path / "plain", hidden_size=64, intermediate_size=128, initializer_range=0.1)
    base = shutil.copytree(plain, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=BitsAndBytesConfig(**said), dtype=torch.float32
    )
    model.save_pretrained(base)
    task = small_world / "tasks" / "first"
    answer = cli("train", task, "--base", base, "--lora", 8, "--out", tmp_path / "run", *QUICK, "--steps", 80)
    assert answer.code == 0, answer.err
    (target,) = told(tmp_path / "run")["target"]
    losses = [one["loss"] for one in told(tmp_path / "run")["validations"]]
    assert min(losses) < 0.8 * losses[0]
    tuned = f"{base}+{tmp_path / 'run' / 'adapter'}"
    asked = cli("evaluate", tuned, "--tasks", task, "--json")
    assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(target["after"])
    assert open_weights(tuned).fingerprint() == told(tmp_path / "run")["fingerprint"]
    assert cli("verify-run", tmp_path / "run", "--step", 15, "-q").code == 0

    from genepool.tasks import open_model

    ours = open_model(tuned).load()
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "run" / "adapter").eval()
    for module in theirs.modules():
        # As for ours: what bitsandbytes repacks is another model by its rounding.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.inference_mode():
        found, expected = ours.model(input_ids=ids).logits, theirs(input_ids=ids).logits  # type: ignore[attr-defined]
    assert torch.allclose(found, expected, atol=1e-5)
    file = tmp_path / "training.yaml"
    file.write_text(f"train: 1\nbase: {base}\ntasks: [{task}]\n")
    plan = json.loads(cli("plan", file, "--json").out)
    stored = Checkpoint(base)
    whole = sum(stored.info(name).nbytes for name in stored.names())
    assert plan["weights"] == pytest.approx(whole, rel=0.2)
    # Sums are of what the packed numbers stand for.
    merged = cli("skill", "apply", tmp_path / "run" / "adapter", "--base", base, "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
