"""Entrywise merges on arrays: the same bits as through torch, from the bytes of the files, and without importing it."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import TENSORS, added, drawn
from safetensors.torch import load_file

from genepool.errors import InputError
from genepool.kernels import brackets
from genepool.kernels.brackets import Brackets
from genepool.kernels.kept_marks import KeptMarks
from genepool.merging import Recipe, load_recipe, plan_merge, stored_arrays
from genepool.merging.registry import all_methods
from genepool.merging.stored_arrays import StoredArrays

ON_ARRAYS = sorted(name for name, method in all_methods().items() if method.on_arrays)
# Further parameters under which a method goes other ways.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ON_ARRAYS),
    ("ties", {"scope": "tensor", "zero_sign": "positive", "rescale": "l1"}),
    ("ties", {"density": 0.6, "normalize": False, "lambda": 0.7}),
    ("breadcrumbs", {"scope": "model", "rescale": "l1"}),
    ("breadcrumbs", {"scope": "row", "density": 0.4}),
    ("dare_linear", {"density": 0.5, "rescale": "l1", "normalize": True}),
    ("dare_ties", {"density": 0.5, "rescale": "l1"}),
    ("della", {"rescale": "l1"}),
    ("della_linear", {"rescale": "none", "density": 0.5}),
    ("pcb", {"scope": "tensor", "ratio": 0.4}),
    ("localize_stitch", {"scope": "tensor"}),
    ("sce", {"select_topk": 0.5, "merges": "all"}),
]
values = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)


# ---------------------------------------------------------------------- brackets


def _found(vector: np.ndarray[Any, Any], pieces: list[Any], ranks: list[int], signed: bool, cut: int) -> list[Any]:
    made = Brackets(pieces, [rank / vector.size for rank in ranks], signed)
    for part in (vector[cut:], vector[:cut]):
        counts = made.begin()
        made.observe(part, counts)
        made.fold(counts)
    return [made.found(i, rank) for i, rank in enumerate(ranks)]


@given(
    vector=st.lists(st.one_of(values, st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-42, -1e-42])), min_size=1, max_size=99),
    signed=st.booleans(),
    data=st.data(),
)
def test_what_a_bracket_finds_is_what_sorting_finds(vector: list[float], signed: bool, data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, len(vector)), min_size=1, max_size=3))
    first, second = (data.draw(st.integers(0, len(vector))) for _ in range(2))
    array = np.array(vector, np.float32)
    # The sample may be anything, even nothing like the vector.
    sample = array[min(first, second) :][:20]
    ordered = np.sort(array if signed else np.abs(array))[::-1]
    for found, rank in zip(_found(array, [sample], ranks, signed, first), ranks, strict=True):
        if found is not None:
            value, ties, place = found
            assert value == ordered[rank - 1]
            if not signed:
                assert ties == (ordered == value).sum()
                assert place == rank - (ordered > value).sum()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("coarse", [True, False])
def test_a_fair_sample_finds_every_rank(signed: bool, coarse: bool) -> None:
    generator = np.random.default_rng(3)
    vector = generator.standard_normal(100_000).astype(np.float32)
    if coarse:
        # As differences of bfloat16 are: few values, each many times.
        vector = np.round(vector * 16) / np.float32(16)
    pieces = [vector[start : start + 256] for start in range(0, vector.size, 4096)]
    ranks = [1, 200, 10_000, 20_000, 99_000, 100_000]
    ordered = np.sort(vector if signed else np.abs(vector))[::-1]
    found = _found(vector, pieces, ranks, signed, 41_234)
    assert [one and one[0] for one in found] == [ordered[rank - 1] for rank in ranks]


def test_too_many_kept_values_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brackets, "MOST_KEPT", 10)
    vector = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
    assert _found(vector, [vector[:100]], [5000], False, 5000) == [None]


@given(seed=st.integers(0, 999), rows=st.integers(1, 6), columns=st.sampled_from([1, 7, 8, 19]), cut=st.integers(0, 6))
def test_what_was_dropped_is_recalled_in_any_parts_and_then_forgotten(
    seed: int, rows: int, columns: int, cut: int
) -> None:
    generator = np.random.default_rng(seed)
    whole = generator.standard_normal((2, rows, columns)).astype(np.float32)
    left = np.where(generator.random(whole.shape) < 0.5, whole, np.float32(0))
    marks = KeptMarks()
    marks.remember(10, left)
    for start, stop in ((0, min(cut, rows)), (min(cut, rows), rows)):
        part = whole[:, start:stop].copy()
        if start < stop:
            assert marks.recall(10 + start, part)
            assert (part == left[:, start:stop]).all()
    assert not marks.recall(10, whole)


def test_one_large_tensor_keeps_no_more_than_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of blocks that are unlike each other gives a wide bracket, and a tensor is one part, however large."""
    monkeypatch.setattr(brackets, "MOST_KEPT", 1000)
    vector = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    made = Brackets([vector[:50], vector[50:100] * 1e-9], [0.5])
    part = made.begin()
    for start in range(0, vector.size, 100):
        made.observe(vector[start : start + 100], part)
    assert sum(keys.size for keys in part.kept[0]) <= 1000 < part.size
    made.fold(part)
    assert made.found(0, 50_000) is None


# ---------------------------------------------------------------------- whole merges


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny tensors go the way of large ones: several blocks, and samples of pieces."""
    monkeypatch.setattr(stored_arrays, "_ENTRIES", 16)
    monkeypatch.setattr(stored_arrays, "_WHOLE", 8)
    monkeypatch.setattr(stored_arrays, "_PIECE", 3)
    monkeypatch.setattr(stored_arrays, "_SHARE", 1e-9)


@pytest.fixture
def written(save_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a base, fine-tunes of the given types with some entries that did not move, and a recipe of them."""

    def write(method: str, kinds: list[torch.dtype], spoilt: float | None = None, **more: Any) -> Path:
        base, folders = drawn(1), []
        base[TENSORS[0]].view(-1)[:3] = torch.tensor([0.0, -0.0, 1e-42])
        for i in range(2 if all_methods()[method].models[1] == 1 else 4):
            model = base if i == 0 else added(base, drawn(i + 1, 0.1))
            if i:
                model = {name: torch.where(drawn(i + 9)[name] > 0, model[name], base[name]) for name in model}
            if i == 1 and spoilt is not None:
                model[TENSORS[0]].view(-1)[5] = spoilt
            kind = kinds[i % len(kinds)]
            folders.append(save_model(f"m{i}", {name: tensor.to(kind) for name, tensor in model.items()}))
        recipe = {"genepool": 1, "method": method, "base": str(folders[0]), "models": [str(f) for f in folders[1:]]}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe | more))
        return path

    return write


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        ([torch.bfloat16], "bfloat16"),
        ([torch.float32], "float32"),
        ([torch.bfloat16, torch.float16, torch.float32], "float16"),
    ],
)
@pytest.mark.parametrize(("method", "parameters"), VARIANTS)
@pytest.mark.usefixtures("small_blocks")
def test_the_same_bits_as_through_torch(
    method: str,
    parameters: dict[str, Any],
    kinds: list[torch.dtype],
    dtype: str,
    written: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = written(method, kinds, dtype=dtype, parameters=parameters)
    plan = plan_merge(load_recipe(recipe))
    assert StoredArrays(plan).takes_all
    found = {name: plan.weights().read(name) for name in TENSORS}
    monkeypatch.setattr(StoredArrays, "takes", lambda self, out: False)
    expected = plan_merge(load_recipe(recipe)).weights()
    for name in TENSORS:
        assert torch.equal(_bits(found[name]), _bits(expected.read(name))), name


def test_limits_next_to_each_other_leave_nothing_between_them(save_model: Callable[..., Path]) -> None:
    """The middle row has ties with both limits and keeps neither, nor what is larger or smaller."""
    low = 1.0
    high = float(np.nextafter(np.float32(low), np.float32(2)))
    model = torch.tensor([[low, low, low, 9], [low, high, 0.1, 9], [high, high, high, 9]])
    base = save_model("base", {"w": torch.zeros(3, 4)})
    recipe = Recipe(
        method="breadcrumbs",
        base=str(base),
        models=[{"model": str(save_model("tuned", {"w": model}))}],
        # Of twelve entries the largest four are dropped, and the next six stay.
        parameters={"gamma": 4 / 12, "density": 0.5, "lambda": 1.0},
    )
    plan = plan_merge(recipe)
    assert StoredArrays(plan).takes_all
    expected = torch.tensor([[low, low, low, 0], [0, 0, 0, 0], [high, high, high, 0]])
    assert torch.equal(plan.weights().read("w"), expected)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "dare_ties"])
@pytest.mark.usefixtures("small_blocks")
def test_a_misleading_sample_changes_nothing(
    method: str, written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written(method, [torch.float32])
    expected = plan_merge(load_recipe(recipe)).weights()
    first = {name: expected.read(name) for name in TENSORS}
    monkeypatch.setattr(brackets, "_ends", lambda keys, starts, share: (1, 2))
    misled = plan_merge(load_recipe(recipe)).weights()
    assert all(torch.equal(first[name], misled.read(name)) for name in TENSORS)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.usefixtures("small_blocks")
def test_a_sample_of_the_differences_spares_two_passes(
    scope: str, written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, observe = [], StoredArrays.observe

    def noted(self: StoredArrays, survey: Any, number: int, *more: Any) -> int:
        passes.append(number)
        return observe(self, survey, number, *more)

    monkeypatch.setattr(StoredArrays, "observe", noted)
    plan = plan_merge(load_recipe(written("ties", [torch.bfloat16], parameters={"scope": scope, "density": 0.3})))
    monkeypatch.setattr(stored_arrays, "_PIECE", 64)
    for name in TENSORS:
        plan.weights().read(name)
    # The brackets, no counting of bits, and the votes.
    assert set(passes) == {0, 3}


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(threads: int, written: Callable[..., Path], tmp_path: Path, cli: Any) -> None:
    recipe = written("ties", [torch.bfloat16], parameters={"rescale": "l1"})
    assert cli("merge", recipe, tmp_path / "out", "--threads", threads).code == 0
    merged = load_file(tmp_path / "out" / "model.safetensors")
    lazily = plan_merge(load_recipe(recipe)).weights()
    assert all(torch.equal(merged[name], lazily.read(name)) for name in TENSORS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["ties", "dare_linear"])
def test_what_is_not_finite_is_named(method: str, value: float, written: Callable[..., Path]) -> None:
    recipe = written(method, [torch.bfloat16], spoilt=value)
    with pytest.raises(InputError, match=rf"m1:{TENSORS[0]}: holds NaN or infinity"):
        plan_merge(load_recipe(recipe)).weights().read(TENSORS[0])


def test_results_too_large_for_their_type_are_named(written: Callable[..., Path]) -> None:
    recipe = written("ties", [torch.float32], dtype="float16", parameters={"lambda": 1e7})
    with pytest.raises(InputError, match="too large for float16"):
        plan_merge(load_recipe(recipe)).weights().read(TENSORS[0])


@pytest.mark.parametrize("method", ["ties", pytest.param("pcb", marks=pytest.mark.slow)])
def test_the_command_line_merges_without_torch(method: str, written: Callable[..., Path], tmp_path: Path) -> None:
    code = (
        "import sys; from genepool.cli.main import run; code = run(sys.argv[1:]);"
        "sys.exit(f'{code}: torch was imported' if code or 'torch' in sys.modules else 0)"
    )
    command = ["merge", str(written(method, [torch.bfloat16])), str(tmp_path / "out"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(TENSORS)
