"""Methods on matrices: equal to the papers' formulas in float64, what must hold for any input, and odd shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import added, assert_equal, drawn, merge

from genepool.errors import InputError
from genepool.kernels import spectral
from genepool.merging import Recipe, engine, plan_merge
from genepool.merging.methods.iso_cts import shares
from genepool.weights.in_memory import TensorWeights

METHODS = ["tsv_m", "iso_c", "iso_cts", "wudi"]
UP = "layers.0.mlp.up_proj.weight"
seeds = st.integers(0, 10_000)
Tensors = list[torch.Tensor]


# ---------------------------------------------------------------------- the papers' formulas, by plain SVDs in float64


def _svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left, values, right


def _polar(matrix: torch.Tensor) -> torch.Tensor:
    left, _, right = _svd(matrix)
    return left @ right


def _tsv_m(tasks: Tensors) -> torch.Tensor:
    k = min(tasks[0].shape) // len(tasks)
    found = [_svd(task) for task in tasks]
    values = torch.cat([s[:k] for _, s, _ in found])
    return (
        _polar(torch.cat([u[:, :k] for u, _, _ in found], 1)) * values @ _polar(torch.cat([v[:k] for *_, v in found]))
    )


def _iso_c(tasks: Tensors) -> torch.Tensor:
    left, values, right = _svd(sum(tasks[1:], tasks[0]))
    return values.mean() * left @ right


def _iso_cts(tasks: Tensors) -> torch.Tensor:
    common, own = shares(min(tasks[0].shape), len(tasks), 0.8)
    left, values, right = (part[..., :common] for part in _transposed_right(_svd(sum(tasks[1:], tasks[0]))))
    parts = [(left, values, right)]
    for task in tasks:
        rest = task.double() - left @ left.mT @ task.double()
        parts.append(tuple(part[..., :own] for part in _transposed_right(_svd(rest))))  # type: ignore[arg-type]
    lefts, all_values, rights = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    return all_values.mean() * _polar(lefts) @ _polar(rights).mT


def _transposed_right(found: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return found[0], found[1], found[2].mT


def _wudi(tasks: Tensors, power: int = 2) -> torch.Tensor:
    stack = torch.stack(tasks).double()
    merged = torch.nn.Parameter(stack.sum(0))
    optimizer = torch.optim.Adam([merged], lr=1e-5)
    norms = stack.flatten(1).norm(dim=1) ** power
    for _ in range(300):
        loss = (((merged - stack) @ stack.mT) ** 2 / norms[:, None, None]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return merged.detach()


_FORMULAS: dict[str, Callable[[Tensors], torch.Tensor]] = {
    "tsv_m": _tsv_m, "iso_c": _iso_c, "iso_cts": _iso_cts, "wudi": _wudi,
}  # fmt: skip


def _tasks(count: int, shape: tuple[int, ...], seed: int = 1, scale: float = 0.01) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for _ in range(count)]


def _merged(method: str, tasks: Tensors, name: str = UP, **parameters: object) -> torch.Tensor:
    base = {name: torch.zeros_like(tasks[0])}
    return merge(method, base, [{name: task} for task in tasks], **parameters)[name]


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (32, 32)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_result_is_the_papers_formula(method: str, shape: tuple[int, int], count: int) -> None:
    tasks = _tasks(count, shape)
    assert _distance(_merged(method, tasks), _FORMULAS[method](tasks)) < 2e-6


def test_wudi_takes_the_path_of_the_naive_descent() -> None:
    tasks = [task * factor for task, factor in zip(_tasks(3, (30, 20)), (1, 0.2, 3), strict=True)]
    for power in (1, 2):
        start, expected = sum(tasks[1:], tasks[0]), _wudi(tasks, power)
        moved = _merged("wudi", tasks, norm_power=power) - start
        assert _distance(moved, expected - start) < 1e-4
    assert torch.equal(_merged("wudi", tasks, steps=0), start)


def test_wudi_treats_the_rows_of_a_tall_matrix_alike() -> None:
    tasks = _tasks(2, (600, 8))
    whole = _merged("wudi", tasks, steps=20)
    swapped = _merged("wudi", [torch.cat([t[300:], t[:300]]) for t in tasks], steps=20)
    torch.testing.assert_close(torch.cat([swapped[300:], swapped[:300]]), whole, atol=1e-6, rtol=1e-4)


# ---------------------------------------------------------------------- properties


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
def test_experts_equal_to_the_base_give_the_base(method: str, seed: int) -> None:
    base = drawn(seed)
    assert_equal(merge(method, base, [base, base]), base, 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
def test_the_order_of_the_models_does_not_matter(method: str, seed: int) -> None:
    base = drawn(seed)
    models = [added(base, drawn(seed + i, 0.1)) for i in (1, 2, 3)]
    assert_equal(merge(method, base, models), merge(method, base, models[::-1]), 1e-4)


@pytest.mark.parametrize("method", ["tsv_m", "iso_c", "iso_cts"])
@given(seed=seeds, factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_scaling_the_deltas_scales_the_merged_delta(method: str, seed: int, factor: float) -> None:
    tasks = _tasks(3, (9, 7), seed)
    scaled = _merged(method, [factor * task for task in tasks])
    torch.testing.assert_close(scaled, factor * _merged(method, tasks), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(_merged(method, tasks, weight=factor), scaled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(_merged(method, tasks, **{"lambda": factor}), scaled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["tsv_m", "iso_c", "iso_cts"])
@given(seed=seeds)
def test_rotating_inputs_and_outputs_rotates_the_merge(method: str, seed: int) -> None:
    tasks = _tasks(2, (8, 11), seed, 1.0)
    before, after = (_polar(torch.randn(n, n, generator=torch.Generator().manual_seed(seed + n))) for n in (8, 11))
    turned = _merged(method, [(before @ task.double() @ after).float() for task in tasks])
    expected = before @ _merged(method, tasks).double() @ after
    torch.testing.assert_close(turned.double(), expected, atol=1e-3, rtol=1e-3)


@given(seed=seeds)
def test_tsv_m_adds_up_tasks_that_share_nothing_and_keeps_one_task(seed: int) -> None:
    a, b = _tasks(2, (4, 5), seed, 1.0)
    left, right = torch.zeros(8, 10), torch.zeros(8, 10)
    left[:4, :5], right[4:, 5:] = a, b
    torch.testing.assert_close(_merged("tsv_m", [left, right]), left + right, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(_merged("tsv_m", [left + right]), left + right, atol=1e-4, rtol=1e-4)


def test_tsv_m_keeps_a_direction_that_tasks_share_once() -> None:
    task = torch.outer(torch.tensor([3.0, 0, 4, 0]), torch.tensor([0, 1.0, 0, 0]))
    torch.testing.assert_close(_merged("tsv_m", [task, task]), task, atol=1e-5, rtol=1e-5)


def test_iso_c_levels_by_hand() -> None:
    tasks = [torch.tensor([[3.0, 0], [0, 0]]), torch.tensor([[0, 0], [0, -1.0]])]
    expected = torch.tensor([[2.0, 0], [0, -2]])
    torch.testing.assert_close(_merged("iso_c", tasks), expected)
    torch.testing.assert_close(_merged("iso_c", tasks, directions="spanned"), expected)


@pytest.mark.parametrize("method", ["iso_c", "iso_cts"])
def test_low_rank_is_completed_as_the_authors_do_or_left_as_it_is(method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    tasks = [torch.randn(20, 2, generator=generator) @ torch.randn(2, 30, generator=generator) for _ in range(2)]
    everywhere = torch.linalg.svdvals(_merged(method, tasks))
    spanned = torch.linalg.svdvals(_merged(method, tasks, directions="spanned"))
    assert int((everywhere > 1e-3).sum()) == 20
    assert int((spanned > 1e-3).sum()) == 4
    for values, count in ((everywhere, 20), (spanned, 4)):
        torch.testing.assert_close(values[:count], values[:1].expand(count), atol=1e-3, rtol=1e-3)
    # Either way the directions share what the sum's singular values add up to.
    total = float(torch.linalg.svdvals(tasks[0] + tasks[1]).sum())
    if method == "iso_c":
        assert float(everywhere.sum()) == pytest.approx(total, rel=1e-4)
        assert float(spanned.sum()) == pytest.approx(total, rel=1e-4)


@given(rank=st.integers(1, 200), models=st.integers(1, 30), common=st.floats(0, 1))
def test_the_shares_of_iso_cts_fill_the_rank(rank: int, models: int, common: float) -> None:
    shared, own = shares(rank, models, common)
    assert shared >= 0
    assert own >= 0
    assert shared + own * models == rank


# ---------------------------------------------------------------------- what is treated, and how much at a time


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_linear_layer_is_averaged_or_left_alone(method: str) -> None:
    names = ["model.embed_tokens.weight", "lm_head.weight", "layers.0.mlp.up_proj.bias", "norm.weight"]
    shapes = [(6, 5), (6, 5), (5,), (5,)]
    generator = torch.Generator().manual_seed(2)
    base, one, two = (
        {n: torch.randn(s, generator=generator) for n, s in zip(names, shapes, strict=True)} for _ in "abc"
    )
    merged = merge(method, base, [one, two])
    expected = base if method == "wudi" else {name: (one[name] + two[name]) / 2 for name in names}
    assert_equal(merged, expected, 1e-5)
    treated = merge(method, base, [one, two], embeddings="matrix")
    assert not torch.allclose(treated["lm_head.weight"], expected["lm_head.weight"], atol=1e-4)
    assert_equal({n: treated[n] for n in names[2:]}, {n: expected[n] for n in names[2:]}, 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_fused_experts_are_merged_one_matrix_at_a_time(method: str) -> None:
    tasks = _tasks(2, (3, 8, 6))
    name = "layers.0.mlp.experts.up_proj"
    fused = _merged(method, tasks, name)
    for expert in range(3):
        alone = _merged(method, [task[expert].clone() for task in tasks])
        torch.testing.assert_close(fused[expert], alone, atol=1e-7, rtol=1e-5)
    sources = {"base": TensorWeights({name: torch.zeros(3, 8, 6)}), "m": TensorWeights({name: tasks[0]})}
    plan = plan_merge(Recipe(method=method, base="base", models=["m"]), sources)
    blocks = list(engine.Engine(plan).blocks(plan.layout.outputs[0]))
    assert [(start, tuple(rows.shape)) for start, rows in blocks] == [(0, (8, 6)), (8, (8, 6)), (16, (8, 6))]
    assert torch.equal(plan.weights().read_rows(name, 5, 20), plan.weights().read(name).reshape(24, 6)[5:20])


@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_any_size_give_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = drawn(1), [added(drawn(1), drawn(i, 0.1)) for i in (2, 3)]
    whole = merge(method, base, models)
    monkeypatch.setattr("genepool.merging.engine.BLOCK_ENTRIES", 7)
    monkeypatch.setattr("genepool.kernels.spectral._RUN_ENTRIES", 7)
    assert_equal(merge(method, base, models), whole, 1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 4), (2, 3), (0, 3), (3, 0)])
def test_odd_shapes_are_merged(method: str, shape: tuple[int, int]) -> None:
    merged = _merged(method, _tasks(5, shape, scale=1.0))
    assert merged.shape == shape
    assert bool(torch.isfinite(merged).all())


def test_fewer_rows_than_models_are_averaged_by_tsv_m() -> None:
    tasks = _tasks(3, (2, 7), scale=1.0)
    torch.testing.assert_close(_merged("tsv_m", tasks), (tasks[0] + tasks[1] + tasks[2]) / 3)


@pytest.mark.parametrize("method", ["tsv_m", "iso_c", "iso_cts"])
def test_a_matrix_with_nan_is_refused_by_name_even_where_nan_is_allowed(method: str) -> None:
    broken = torch.full((4, 4), float("nan"))
    sources = {"base": TensorWeights({UP: torch.zeros(4, 4)}), "m": TensorWeights({UP: broken})}
    recipe = Recipe(method=method, base="base", models=["m"], nonfinite="allow")
    with pytest.raises(InputError, match=UP):
        plan_merge(recipe, sources).weights().read(UP)


# ---------------------------------------------------------------------- factorisations


@given(seed=seeds, rows=st.integers(1, 12), columns=st.integers(1, 12), data=st.data())
def test_singular_triplets_are_those_of_the_svd(seed: int, rows: int, columns: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, min(rows, columns)))
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, values, right = spectral.singular_triplets(matrix, count)
    torch.testing.assert_close(values.double(), _svd(matrix)[1][:count], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(left.mT @ left, torch.eye(count), atol=1e-4, rtol=0)
    torch.testing.assert_close(right @ right.mT, torch.eye(count), atol=1e-3, rtol=0)
    torch.testing.assert_close(left.mT @ matrix, values[:, None] * right, atol=1e-4, rtol=1e-4)


def test_null_directions_are_left_out_or_completed() -> None:
    matrix = torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 4))
    assert len(spectral.singular_triplets(matrix, 3).values) == 1
    assert len(spectral.singular_triplets(torch.zeros(4, 3), 3).values) == 0
    left, values, right = spectral.singular_triplets(matrix, 3, complete=True)
    torch.testing.assert_close(left * values @ right, matrix, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(left.mT @ left, torch.eye(3), atol=1e-5, rtol=0)
