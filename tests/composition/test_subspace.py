"""Adapters merged in common coordinates: against numpy in full, and whatever the ranks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genepool.composition import make_composer
from genepool.composition.composition import Saved
from genepool.composition.skill_set import ComposedSkill, SkillSet
from genepool.composition.subspace import SubspaceChange
from genepool.tasks import open_model
from genepool.weights import Change, TensorWeights, open_change, open_weights
from genepool.weights.encodings.low_rank import Product

Cli = Callable[..., Any]


class Factored(Change):
    """A change that is held as factors."""

    kind = "factored"

    def __init__(self, name: str, base: TensorWeights, products: dict[str, Product]) -> None:
        self.name, self.base, self.products = name, base, products

    def names(self) -> tuple[str, ...]:
        return tuple(self.products)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.products[name].left.shape[0], self.products[name].right.shape[1]

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        left, right, factor = self.products[name]
        return (left[start:stop] @ right) * factor

    def factors(self, name: str) -> Product:
        return self.products[name]

    def digest(self) -> str:
        return self.name


def drawn(seed: int, ranks: tuple[int, ...], shapes: dict[str, tuple[int, int]]) -> list[dict[str, Product]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: Product(
                torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator), 0.5
            )
            for name, (rows, columns) in shapes.items()
        }
        for rank in ranks
    ]


def merged(method: str, skills: list[dict[str, Product]], shapes: dict[str, tuple[int, int]], **options: Any) -> Change:
    base = TensorWeights({name: torch.zeros(shape) for name, shape in shapes.items()}, "base", config={})
    changes = [Factored(f"skill{i}", base, products) for i, products in enumerate(skills)]
    opened = tuple(ComposedSkill(one.name, one.name, open_model(one.applied()), one) for one in changes)
    return make_composer(method, options).restore(Saved(SkillSet(base, "base", opened), {}, {})).fold()


def in_full(products: list[dict[str, Product]], name: str) -> list[np.ndarray]:
    return [(one[name].left.double() @ one[name].right.double()).numpy() * one[name].factor for one in products]


SHAPES = {"layers.0.mlp.up.weight": (7, 5), "layers.1.mlp.up.weight": (4, 9)}
ranks = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@settings(max_examples=10)
@given(seed=st.integers(0, 999), ranks=ranks, weight=st.floats(-2, 2), method=st.sampled_from(["knots", "core_space"]))
def test_a_linear_merge_there_is_the_same_as_in_full(
    seed: int, ranks: tuple[int, ...], weight: float, method: str
) -> None:
    """Nothing is lost on the way, whatever the ranks, even where they add up to more than the matrix has."""
    skills = drawn(seed, ranks, SHAPES)
    found = merged(method, skills, SHAPES, merge="task_arithmetic", parameters={"lambda": 0.5}, scale=weight)
    for name in SHAPES:
        expected = weight * 0.5 * sum(in_full(skills, name))
        assert np.allclose(found.whole(name), expected, atol=1e-4)
        product = found.factors(name)
        assert product is not None
        assert product.left.shape[1] <= sum(ranks)


def test_knots_by_ties_is_what_numpy_says() -> None:
    skills = drawn(3, (1, 2, 3), SHAPES)
    blocks: dict[str, np.ndarray] = {}
    lefts = {}
    for name, (_, columns) in SHAPES.items():
        left, values, right = np.linalg.svd(np.concatenate(in_full(skills, name), 1), full_matrices=False)
        kept = values > 1e-5
        lefts[name] = left[:, kept]
        blocks[name] = (values[kept, None] * right[kept]).reshape(kept.sum(), 3, columns).transpose(1, 0, 2)
    vectors = np.concatenate([blocks[name].reshape(3, -1) for name in SHAPES], 1)
    limits = np.sort(np.abs(vectors))[:, -int(0.4 * vectors.shape[1])]
    vectors = np.where(np.abs(vectors) >= limits[:, None], vectors, 0)
    sign = np.sign(vectors.sum(0))
    agreeing = np.where(vectors * sign > 0, vectors, 0)
    mean = agreeing.sum(0) / np.maximum(1, (agreeing != 0).sum(0))
    found, at = merged("knots", skills, SHAPES, parameters={"density": 0.4}, scale=0.6), 0
    for name, (_, columns) in SHAPES.items():
        rank = lefts[name].shape[1]
        expected = 0.6 * lefts[name] @ mean[at : at + rank * columns].reshape(rank, columns)
        at += rank * columns
        assert np.allclose(found.whole(name), expected, atol=1e-5)


def test_core_space_by_ties_is_what_numpy_says() -> None:
    skills = drawn(4, (2, 3), SHAPES)
    found = merged("core_space", skills, SHAPES, merge="ties", parameters={"density": 1.0})
    for name in SHAPES:
        left = np.linalg.svd(
            np.concatenate([one[name].left.double().numpy() for one in skills], 1), full_matrices=False
        )[0]
        right = np.linalg.svd(
            np.concatenate([one[name].right.double().numpy() for one in skills]), full_matrices=False
        )[2]
        blocks = np.stack([left.T @ one @ right.T for one in in_full(skills, name)])
        agreeing = np.where(blocks * np.sign(blocks.sum(0)) > 0, blocks, 0)
        mean = agreeing.sum(0) / np.maximum(1, (agreeing != 0).sum(0))
        # The bases are those of singular vectors, which may point either way; the merge does not see that.
        assert np.allclose(found.whole(name), left @ mean @ right, atol=1e-5)


def test_one_skill_by_itself_is_that_skill_and_what_a_skill_leaves_alone_counts_as_zero() -> None:
    (skill,) = drawn(5, (2,), SHAPES)
    alone = merged("core_space", [skill], SHAPES)
    first, second = SHAPES
    assert np.allclose(alone.whole(first), in_full([skill], first)[0], atol=1e-5)
    half = {first: skill[first]}
    both = merged("core_space", [skill, half], SHAPES, merge="linear")
    assert np.allclose(both.whole(second), in_full([skill], second)[0] / 2, atol=1e-5)


@pytest.mark.parametrize("merge", ["task_arithmetic", "ties", "dare_ties", "linear"])
@pytest.mark.parametrize("method", ["knots", "core_space"])
def test_a_skill_of_zeros_changes_nothing(method: str, merge: str) -> None:
    """What training never reached: a right factor that was drawn, and a left one of zeros."""
    generator = torch.Generator().manual_seed(0)
    zeros = {
        name: Product(torch.zeros(rows, 2), torch.randn(2, columns, generator=generator))
        for name, (rows, columns) in SHAPES.items()
    }
    found = merged(method, [zeros, zeros], SHAPES, merge=merge)
    assert all(not found.whole(name).any() for name in SHAPES)
    first, second = SHAPES
    (skill,) = drawn(6, (2,), SHAPES)
    partly = {first: skill[first], second: zeros[second]}
    found = merged(method, [partly, partly], SHAPES, merge=merge)
    assert found.whole(first).any()
    assert not found.whole(second).any()


def test_a_matrix_that_is_read_in_blocks_is_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = merged("core_space", drawn(7, (2, 3), SHAPES), SHAPES)
    assert isinstance(found, SubspaceChange)
    read: list[str] = []
    inner = found._merged.read
    monkeypatch.setattr(found._merged, "read", lambda name: read.append(name) or inner(name))
    for name, (rows, _) in SHAPES.items():
        blocks = torch.cat([found.rows(name, row, row + 1) for row in range(rows)])
        torch.testing.assert_close(blocks, found.whole(name))
    assert read == list(SHAPES)


# ---------------------------------------------------------------------- through the command


@pytest.mark.parametrize("method", ["knots", "core_space"])
def test_adapters_of_unequal_ranks_become_one_adapter(cli: Cli, text_bed: Path, tmp_path: Path, method: str) -> None:
    skills = [text_bed / "lora" / name for name in ("one", "two")]
    out = tmp_path / "out"
    told = cli(
        "compose", method, *skills, "--base", text_bed / "base", "--set", "merge=task_arithmetic",
        "--set", "parameters={lambda: 0.5}", "--out", out, "--json",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert json.loads(told.out)["form"] == "adapter"
    base = open_weights(text_bed / "base")
    found = open_change(out, base)
    parts = [open_change(skill, base) for skill in skills]
    assert set(found.names()) == set(parts[0].names())
    for name in found.names():
        expected = 0.5 * sum(part.whole(name) for part in parts)
        assert torch.allclose(found.whole(name), expected, atol=1e-5)
        product = found.factors(name)
        assert product is not None
        assert product.left.shape[1] <= 5
    kept = tmp_path / "kept"
    assert cli("compose", method, *skills, "--base", text_bed / "base", "--keep", "--out", kept).code == 0
    asked = cli("evaluate", kept, f"{text_bed / 'base'}+{out}", "--tasks", text_bed / "tasks", "--json")
    assert asked.code == 0, asked.err


@pytest.mark.parametrize("method", ["knots", "core_space"])
def test_adapters_that_were_never_trained_compose(cli: Cli, text_bed: Path, tmp_path: Path, method: str) -> None:
    skills = [Path(shutil.copytree(text_bed / "lora" / name, tmp_path / name)) for name in ("one", "two")]
    for skill in skills:
        held = load_file(skill / "adapter_model.safetensors")
        zeros = {name: torch.zeros_like(values) if "lora_B" in name else values for name, values in held.items()}
        save_file(zeros, skill / "adapter_model.safetensors")
    base, out = text_bed / "base", tmp_path / "out"
    answer = cli("compose", method, *skills, "--base", base, "--out", out)
    assert answer.code == 0, answer.err
    found = open_change(out, open_weights(base))
    assert all(not found.whole(name).any() for name in found.names())


def test_what_cannot_be_merged_there_is_one_clear_error(
    cli: Cli, text_bed: Path, small_bed: Path, tmp_path: Path
) -> None:
    full = [small_bed / "full" / name for name in ("first", "second")]
    adapters = [text_bed / "lora" / name for name in ("one", "two")]
    for skills, base, more, message in (
        (full, small_bed, (), "otherwise than by a product of two factors, and knots composes adapters of low rank"),
        (adapters, text_bed, ("--set", "merge=tis"), "merge: unknown merge method 'tis'. Did you mean 'ties'?"),
        (adapters, text_bed, ("--set", "parameters={densty: 1}"), "ties has no parameter 'densty'"),
        (adapters, text_bed, ("--set", "merge=fisher"), "fisher needs fisher statistics"),
    ):
        answer = cli("compose", "knots", *skills, "--base", base / "base", *more, "--out", tmp_path / "out")
        assert answer.code == 2
        assert message in answer.err
        assert not (tmp_path / "out").exists()
