"""EMR-merging: elected entries, masks and factors as in numpy; and the task is named behind `#`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from genepool.composition import load_composition
from genepool.composition.composers.emr import EmrChange, elected, masked, rescale_factors
from genepool.composition.vectors import TaskVectors
from genepool.weights import TensorWeights, open_weights
from genepool.weights.in_memory import ResidentChange

Cli = Callable[..., Any]


def vectors(*changes: dict[str, torch.Tensor]) -> TaskVectors:
    base = TensorWeights({name: torch.zeros_like(values) for name, values in changes[0].items()}, "base")
    return TaskVectors(base, [ResidentChange(one, base, f"skill{i}") for i, one in enumerate(changes)])


def test_by_hand() -> None:
    block = torch.tensor([[[3.0, -1.0, 2.0, 0.0]], [[-1.0, -4.0, -2.0, 5.0]]])
    assert elected(block).tolist() == [[3.0, -4.0, 0.0, 5.0]]
    assert masked(block, elected(block)).tolist() == [[[3.0, -4.0, 0.0, 0.0]], [[0.0, -4.0, 0.0, 5.0]]]
    found = vectors({"w": block[0]}, {"w": block[1]})
    assert rescale_factors(found, "vector").tolist() == pytest.approx([6 / 7, 12 / 9])
    assert EmrChange(found, 1, 2.0, "emr", "").whole("w").tolist() == [[0.0, -8.0, 0.0, 10.0]]


def test_factors_compare_sums_or_means_of_tensors() -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[4.0, -1.0, 1.0, 1.0]])}
    other = {"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([[-1.0, -2.0, 1.0, 2.0]])}
    found = vectors(one, other)
    # Elected: a = [3, 2], b = [4, -2, 1, 2].
    assert rescale_factors(found, "vector").tolist() == pytest.approx([10 / 14, 10 / 8])
    assert rescale_factors(found, "tensors").tolist() == pytest.approx(
        [(3 / 2 + 7 / 4) / (5 / 2 + 9 / 4), (4 / 2 + 6 / 4) / (3 / 2 + 5 / 4)]
    )


@given(seed=st.integers(0, 999), count=st.integers(1, 4))
def test_a_task_has_the_magnitude_of_its_skill_and_never_another_sign(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tuned = [{"w": torch.randn(5, 3, generator=generator)} for _ in range(count)]
    found = vectors(*tuned)
    factors = rescale_factors(found, "vector")
    for number, one in enumerate(tuned):
        change = EmrChange(found, number, float(factors[number]), "emr", "").whole("w")
        assert not bool((change * one["w"] < 0).any())
        assert float(change.abs().sum()) == pytest.approx(float(one["w"].abs().sum()), rel=1e-5)
    if count == 1:
        torch.testing.assert_close(change, tuned[0]["w"])


def test_a_skill_of_zeros_stays_one() -> None:
    zeros, ones = {"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}
    assert rescale_factors(vectors(zeros, ones), "vector").tolist() == [1.0, 1.0]


def test_a_task_is_named_behind_the_folder(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    skills = [small_bed / "full" / name for name in ("first", "second")]
    out = tmp_path / "emr"
    made = cli(
        "compose", "emr", *skills, "--base", small_bed / "base", "--set", "rescale=tensors", "--out", out, "--json"
    )
    assert made.code == 0, made.err
    assert json.loads(made.out)["form"] == "composition"

    base, *tuned = (load_file(one / "model.safetensors") for one in (small_bed / "base", *skills))
    deltas = [{name: (one[name] - base[name]).double().numpy() for name in base} for one in tuned]
    chosen = {}
    for name in base:
        stack = np.stack([one[name] for one in deltas])
        sign = np.sign(stack.sum(0))
        chosen[name] = sign * np.maximum(0, (stack * sign).max(0))
    kept = {name: chosen[name] * (deltas[1][name] * chosen[name] > 0) for name in base}
    factor = sum(np.abs(d).mean() for d in deltas[1].values()) / sum(np.abs(d).mean() for d in kept.values())
    found = open_weights(f"{out}#second")
    for name in base:
        assert np.allclose(found.read(name), base[name].numpy() + factor * kept[name], atol=1e-5), name

    asked = cli(
        "evaluate", f"{out}#first", f"{out}#second", "--tasks", small_bed / "tasks", "--task", "first", "--json"
    )
    assert asked.code == 0, asked.err
    assert len({row["fingerprint"] for row in json.loads(asked.out)["results"]}) == 2
    for name, message in (
        (out, "answers each task by weights of its own. Name the task, as in"),
        (f"{out}#frist", "has no task 'frist'. Did you mean 'first'?"),
    ):
        answer = cli("evaluate", name, "--tasks", small_bed / "tasks", "--task", "first")
        assert answer.code == 2
        assert message in answer.err
    whole = load_composition(out)
    hashes = {whole.fingerprint, *(whole.for_task(name).fingerprint for name in ("first", "second"))}
    assert len(hashes) == 3
    skill = tmp_path / "first.safetensors"
    assert cli("skill", "extract", f"{out}#first", "--base", small_bed / "base", "--out", skill).code == 0


def test_what_answers_all_tasks_alike_is_not_told_one(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    skills = [text_bed / "lora" / name for name in ("one", "two")]
    kept = tmp_path / "kept"
    assert cli("compose", "knots", *skills, "--base", text_bed / "base", "--keep", "--out", kept).code == 0
    answer = cli("generate", f"{kept}#one", "--prompt", "ab=")
    assert answer.code == 2
    assert "needs not be told a task, got 'one'" in answer.err
