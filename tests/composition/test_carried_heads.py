"""Skills that carry a head which their base lacks: what is missing is named, not what follows from it."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.composition import load_composition
from genepool.errors import InputError

Cli = Callable[..., Any]


def headed(folder: Path) -> Path:
    """base/, a BERT without a head; one/ and two/, adapters of it with one head."""
    import transformers
    from peft import LoraConfig, get_peft_model

    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder / "base")
    warnings.simplefilter("ignore")
    model = transformers.BertForSequenceClassification.from_pretrained(folder / "base", num_labels=3)
    for name in ("one", "two"):
        settings = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
        get_peft_model(copy.deepcopy(model), settings).save_pretrained(folder / name)
    return folder


@pytest.mark.slow
def test_skills_that_are_missing_are_named_although_their_head_is_missing_too(cli: Cli, tmp_path: Path) -> None:
    place = headed(tmp_path)
    out, base = place / "out", place / "base"
    answer = cli("compose", "emr", place / "one", place / "two", "--base", base, "--out", out)
    assert answer.code == 0, answer.err
    load_composition(out)
    weights = base / "model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held[:-4] + b"\0\0\0\0")
    with pytest.raises(InputError, match="its base is another one"):
        load_composition(out)
    weights.write_bytes(held)
    for name in ("one", "two"):
        shutil.rmtree(place / name)
    with pytest.raises(InputError, match=r"2 of 2 skills cannot be used: one .* is missing at .*; two .* is missing"):
        load_composition(out)
