"""Sketches estimate what exact comparison finds, whatever form a change is stored in."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_skills import InMemory, tensors, write

from genepool.errors import InputError
from genepool.skills import sketch as sketching
from genepool.skills.similarity import compare
from genepool.skills.sketch import LAYER_WIDTH, WIDTH, cosines, plane, sketch
from genepool.weights import Form, open_change
from genepool.weights import change as streaming
from genepool.weights.skill_file import SkillFile

seeds = st.integers(0, 2**31)


def _mixed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], a: float, b: float) -> dict[str, torch.Tensor]:
    return {name: a * one[name] + b * other[name] for name in one}


def _flat(changes: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([each.double().reshape(-1) for each in changes.values()]).numpy()


@given(seeds, seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_a_sketch_is_linear_in_the_change(first: int, second: int, a: float, b: float) -> None:
    one, other = tensors(first), tensors(second)
    mixed = sketch(InMemory(_mixed(one, other, a, b)))
    apart = [sketch(InMemory(each)) for each in (one, other)]
    np.testing.assert_allclose(mixed.whole, a * apart[0].whole + b * apart[1].whole, atol=1e-4)
    for name, layer in mixed.layers.items():
        np.testing.assert_allclose(layer, a * apart[0].layers[name] + b * apart[1].layers[name], atol=1e-4)


@given(seeds, st.floats(-1, 1), st.sampled_from([None, 2]))
def test_cosines_of_sketches_are_those_of_the_changes(seed: int, share: float, rank: int | None) -> None:
    one, other = tensors(seed, side=32, rank=rank), tensors(seed + 1, side=32, rank=rank)
    other = _mixed(one, other, share, 1 - abs(share))
    sketches = [sketch(InMemory(each)) for each in (one, other)]
    x, y = _flat(one), _flat(other)
    exact = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    (estimate,) = cosines(sketches[0].whole, sketches[1].whole[None])
    # Five standard errors.
    assert abs(estimate - exact) < 5 / WIDTH**0.5
    assert sketches[0].squared == pytest.approx(float(x @ x))


def test_the_error_is_what_theory_says() -> None:
    errors = []
    for seed in range(60):
        # Of rank one: entries that hang together as much as they can.
        one, other = tensors(2 * seed, rank=1), tensors(2 * seed + 1, rank=1)
        x, y = _flat(one), _flat(other)
        (found,) = cosines(sketch(InMemory(one)).whole, sketch(InMemory(other)).whole[None])
        errors.append(float(found) - float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)))
    assert np.std(errors) == pytest.approx(WIDTH**-0.5, rel=0.35)
    assert abs(np.mean(errors)) < 4 * WIDTH**-0.5 / 60**0.5


@given(seeds)
def test_blocks_do_not_show_in_a_sketch(seed: int) -> None:
    change = {"a.weight": tensors(seed, side=30)["model.layers.0.mlp.up_proj.weight"][:, :27]}
    whole = sketch(InMemory(change))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "BLOCK_ENTRIES", 60)
        assert len(streaming.block_rows(30, 27)) > 10
        by_blocks = sketch(InMemory(change))
    np.testing.assert_allclose(whole.whole, by_blocks.whole, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "rank"), [(Form("sparse", "F32"), None), (Form("low-rank", "F32", 2), 2), (Form("dense"), None)]
)
def test_the_form_does_not_show_in_a_sketch(tmp_path: Path, form: Form, rank: int | None) -> None:
    change = tensors(5, side=32, rank=rank)
    stored = SkillFile(write(tmp_path / "s.safetensors", change, form))
    assert stored.form == form.name
    found, expected = sketch(stored), sketch(InMemory(change))
    np.testing.assert_allclose(found.whole, expected.whole, atol=2e-4)
    assert found.layers.keys() == expected.layers.keys()
    assert "model.layers.2" in found.layers
    assert {each.shape for each in found.layers.values()} == {(LAYER_WIDTH,)}


def test_what_stays_the_same_from_release_to_release() -> None:
    # Sketches are stored: another hash would make all of them wrong. Raise VERSION with it.
    found = sketch(InMemory({"w": torch.arange(12.0).reshape(3, 4)}))
    places = {int(i): float(found.whole[i]) for i in np.flatnonzero(found.whole)}
    assert sketching.VERSION == 1
    assert places == {
        77: -11, 83: 3, 196: 5, 264: 10, 341: -4, 442: 9, 502: 6, 611: 8, 701: 1, 715: -7, 898: 2,
    }  # fmt: skip


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_change_that_is_no_number_has_no_sketch(bad: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        sketch(InMemory({"w": torch.tensor([[1.0, bad]])}))


@given(seeds)
def test_places_in_the_plane_keep_distances_that_fit(seed: int) -> None:
    # Three points always fit a plane: distances come out as they went in.
    three = [sketch(InMemory(tensors(seed + i))).whole for i in range(3)]
    places = plane(three)
    for i in range(3):
        for j in range(i):
            distance = float(1 - cosines(three[i], three[j][None])[0])
            assert np.linalg.norm(places[i] - places[j]) == pytest.approx(distance, abs=1e-6)
    np.testing.assert_allclose(places.mean(0), 0, atol=1e-9)


def test_few_skills_have_places_too() -> None:
    one = sketch(InMemory(tensors(0))).whole
    assert plane([]).shape == (0, 2)
    assert plane([one]).tolist() == [[0, 0]]
    np.testing.assert_allclose(plane([one, one]), 0, atol=1e-7)


def test_a_thousand_skills_are_compared_at_once() -> None:
    many = np.random.default_rng(0).standard_normal((1000, WIDTH)).astype(np.float32)
    begin = time.perf_counter()
    found = cosines(many[3], many)
    assert time.perf_counter() - begin < 0.5
    assert int(found.argmax()) == 3
    assert cosines(np.zeros(WIDTH, np.float32), many).tolist() == [0.0] * 1000


# ---------------------------------------------------------------------- exact comparison


@given(seeds, seeds)
def test_an_exact_comparison_is_the_formula(first: int, second: int) -> None:
    one, other = tensors(first), tensors(second)
    found = compare(InMemory(one), InMemory(other))
    x, y = _flat(one), _flat(other)
    assert found.whole.cosine == pytest.approx(float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)))
    assert found.whole.signs == pytest.approx(float((np.sign(x) == np.sign(y)).mean()))
    count = int(0.01 * len(x))
    top = [set(np.argsort(-np.abs(each))[:count].tolist()) for each in (x, y)]
    assert found.region == pytest.approx(len(top[0] & top[1]) / len(top[0] | top[1]))
    layer = found.layers["model.layers.1"]
    a, b = (each["model.layers.1.mlp.up_proj.weight"].double().reshape(-1) for each in (one, other))
    assert layer.cosine == pytest.approx(float(a @ b / a.norm() / b.norm()))


def test_a_skill_is_like_itself_and_unlike_its_opposite() -> None:
    one = tensors(1)
    same = compare(InMemory(one), InMemory(one))
    assert (same.whole.cosine, same.whole.signs, same.region) == (pytest.approx(1.0), 1.0, 1.0)
    opposite = compare(InMemory(one), InMemory({name: -each for name, each in one.items()}))
    assert (opposite.whole.cosine, opposite.whole.signs, opposite.region) == (pytest.approx(-1.0), 0.0, 1.0)


def test_tensors_that_one_leaves_alone_count_as_zero() -> None:
    one = tensors(1)
    part = dict(list(one.items())[:1])
    found = compare(InMemory(part), InMemory(one))
    x = _flat(part)
    assert found.whole.cosine == pytest.approx(float(np.linalg.norm(x) / np.linalg.norm(_flat(one))))
    assert found.whole.signs == 1.0
    assert found.layers["norm"].cosine is None
    nothing = compare(InMemory({"a": torch.ones(2, 2)}), InMemory({"b": torch.ones(2, 2)}))
    assert (nothing.whole.cosine, nothing.whole.signs, nothing.region) == (0.0, None, 0.0)
    with pytest.raises(InputError, match="shape"):
        compare(InMemory({"a": torch.ones(2, 2)}), InMemory({"a": torch.ones(2, 3)}))


def test_directions_of_low_rank_changes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    name = "model.layers.0.mlp.up_proj.weight"

    def low_rank(left: slice, right: slice) -> dict[str, torch.Tensor]:
        return {name: axes[:, left] @ torch.diag(torch.tensor([3.0, 2.0])) @ axes[:, right].mT}

    pairs = [low_rank(slice(0, 2), slice(0, 2)), low_rank(slice(1, 3), slice(4, 6))]
    form = Form("low-rank", "F32", 2)
    one, other = (open_change(write(tmp_path / f"{i}.safetensors", pair, form)) for i, pair in enumerate(pairs))
    found = compare(one, other)
    # One direction of two is shared on the left, none on the right.
    assert found.subspaces == (pytest.approx(0.5, abs=1e-5), pytest.approx(0.0, abs=1e-5))
    assert compare(one, one).subspaces == (pytest.approx(1.0), pytest.approx(1.0))
    assert compare(one, InMemory(pairs[0])).subspaces is None
