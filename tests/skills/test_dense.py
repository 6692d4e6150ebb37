"""Skills as files: extracted, put back, and refused on another base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.errors import InputError
from genepool.skills import extract_skill
from genepool.weights import open_weights
from genepool.weights.skill_file import SkillFile

NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight")


def _tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(4, 4, generator=generator) for name in NAMES}


@pytest.fixture
def models(save_model: Callable[..., Path]) -> tuple[Path, Path, Path]:
    base = _tensors(0)
    tuned = {**base, NAMES[1]: base[NAMES[1]] + 0.1 * _tensors(1)[NAMES[1]]}
    other = {**base, NAMES[0]: base[NAMES[0]] + 0.2 * _tensors(2)[NAMES[0]]}
    return save_model("base", base), save_model("tuned", tuned), save_model("other", other)


def test_base_plus_skill_is_the_fine_tune(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    base, tuned, _ = models
    skill = extract_skill(open_weights(tuned), open_weights(base), tmp_path / "s.safetensors")
    weights, expected = open_weights(f"{base}+{skill}"), open_weights(tuned)
    for name in NAMES:
        torch.testing.assert_close(weights.read(name), expected.read(name), atol=1e-6, rtol=1e-6)
    assert SkillFile(skill).names() == (NAMES[1],)
    opened = open_weights(base)
    assert open_weights(skill, base=opened).delta(NAMES[0], opened) is None


def test_a_skill_of_another_base_is_refused(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    base, tuned, other = models
    skill = extract_skill(open_weights(tuned), open_weights(base), tmp_path / "s.safetensors")
    with pytest.raises(InputError, match="was extracted from another base"):
        open_weights(f"{other}+{skill}")


def test_nothing_learned_is_no_skill(tmp_path: Path, models: tuple[Path, Path, Path]) -> None:
    base, tuned, _ = models
    with pytest.raises(InputError, match="does not differ"):
        extract_skill(open_weights(base), open_weights(base), tmp_path / "s.safetensors")
    with pytest.raises(InputError, match=r"end in .safetensors"):
        extract_skill(open_weights(tuned), open_weights(base), tmp_path / "s.bin")
    assert not list(tmp_path.glob("s*"))


def test_extract_and_apply_from_the_command_line(
    tmp_path: Path, models: tuple[Path, Path, Path], cli: Callable[..., Any]
) -> None:
    base, tuned, other = models
    for name, model in (("one", tuned), ("two", other)):
        answer = cli("skill", "extract", model, "--base", base, "--out", tmp_path / f"{name}.safetensors", "--json")
        assert answer.code == 0
        assert json.loads(answer.out)["schema"] == 1
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    assert cli("skill", "apply", *files, "--base", base, "--out", tmp_path / "both").code == 0
    both, start = open_weights(tmp_path / "both"), open_weights(base)
    for name in NAMES:
        expected = sum(open_weights(m).read(name) - start.read(name) for m in (tuned, other)) + start.read(name)
        torch.testing.assert_close(both.read(name), expected, atol=1e-6, rtol=1e-6)
    again = cli("skill", "extract", tuned, "--base", base, "--out", files[0])
    assert again.code == 2
    assert "the file exists" in again.err
