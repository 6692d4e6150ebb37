"""What a merge writes is whole: each tensor that a loader joins out of several has all its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

_LOST = "block_sparse_moe.experts.1.w2.weight"


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=1,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    return tmp_path / "moe"


@pytest.mark.parametrize(
    ("match", "said"),
    [
        (f"model.layers.0.{_LOST}", "would hold 192 of the 288 entries of model.layers.0.mlp.experts.down_proj"),
        ("*.layers.1.*experts.*.w3.*", "entries of model.layers.1.mlp.experts.gate_up_proj"),
    ],
)
def test_a_missing_expert_is_refused(
    match: str, said: str, mixture: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    recipe = {"genepool": 1, "method": "passthrough", "models": ["moe"], "tensors": [{"match": match, "from": "drop"}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("merge", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert answer.code == 2
    assert said in answer.err
    assert "it lacks model.layers." in answer.err
    assert not (tmp_path / "out").exists()


def test_an_expert_may_be_of_another_model(mixture: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    rules = [{"match": f"*.{_LOST}", "from": "moe"}]
    recipe = {"genepool": 1, "method": "passthrough", "models": ["moe"], "tensors": rules}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert cli("merge", tmp_path / "r.yaml", "--out", tmp_path / "out").code == 0
