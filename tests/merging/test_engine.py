"""The engine: blocks, threads and readers of parts give one result; memory waits its turn; NaN stops or goes on."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from merging_in_memory import TENSORS, added, drawn, drawn_statistics, merge
from safetensors.torch import load_file

from genepool.errors import InputError
from genepool.kernels.memory import MemoryGate
from genepool.merging import REQUIRED, Recipe, all_methods, engine, outputs, plan_merge
from genepool.weights.in_memory import TensorWeights, load_resident, stack_changes, stacked_changes


def _setting(method: str) -> dict[str, Any]:
    declared = all_methods()[method]
    most = declared.models[1]
    if most is not None and declared.base == "counted":
        most -= 1
    base = drawn(1)
    return {
        "base": None if declared.base == "unused" else base,
        "models": [added(base, drawn(i + 2, 0.1)) for i in range(min(3, most or 3))],
        **{p.name: 0.5 for p in declared.parameters if p.default is REQUIRED},
    }


@pytest.mark.parametrize("method", sorted(all_methods()))
def test_blocks_of_any_size_give_the_same_merge(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = _setting(method)
    whole = merge(method, **setting)
    monkeypatch.setattr(engine, "BLOCK_ENTRIES", 7)
    for name, value in merge(method, **setting).items():
        torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", sorted(all_methods()))
def test_stacked_in_memory_nothing_is_other_and_nothing_is_written_into(method: str) -> None:
    setting = _setting(method)
    base, models = setting.pop("base"), setting.pop("models")
    if base is None or len(models) < 2:
        pytest.skip("has no base, or takes one model")
    opened = TensorWeights(base, "base")
    held = load_resident(opened)
    changes = {f"m{i}": TensorWeights(tensors, f"m{i}") for i, tensors in enumerate(models)}
    plain = {name: load_resident(weights, base=(opened, held)) for name, weights in changes.items()}
    stacked = {name: load_resident(weights, base=(opened, held)) for name, weights in changes.items()}
    stack_changes(list(stacked.values()))
    for name in TENSORS:
        found = stacked_changes(list(stacked.values()), name, held)
        assert found is not None
        assert stacked_changes(list(stacked.values())[::-1], name, held) is None
    recipe = Recipe(method=method, base="base", models=list(changes), parameters=setting)
    known = drawn_statistics(method, changes)
    first = plan_merge(recipe, {**plain, "base": held}, statistics=known).weights()
    for _ in range(2):
        second = plan_merge(recipe, {**stacked, "base": held}, statistics=known).weights()
        for name in TENSORS:
            assert torch.equal(first.read(name), second.read(name))


def test_what_is_not_finite_or_not_moved_by_all_is_not_stacked() -> None:
    base = drawn(0)
    name, other, *_ = TENSORS
    opened = TensorWeights(base, "base")
    held = load_resident(opened)
    models = [added(base, drawn(i, 0.1)) for i in (1, 2)]
    models[0][name] = models[0][name].clone()
    models[0][name].view(-1)[0] = float("nan")
    changes = [load_resident(TensorWeights(m, str(i)), base=(opened, held)) for i, m in enumerate(models)]
    stack_changes(changes)
    assert stacked_changes(changes, name, held) is None
    assert stacked_changes(changes, other, held) is not None
    recipe = Recipe(method="task_arithmetic", base="base", models=["0", "1"])
    with pytest.raises(InputError, match="NaN or infinity"):
        plan_merge(recipe, {"base": held, "0": changes[0], "1": changes[1]}).weights().read(name)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "model_stock"])
def test_rows_are_those_of_the_tensor(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = _setting(method)
    base, models = setting.pop("base"), setting.pop("models")
    sources = {f"m{i}": TensorWeights(tensors, f"m{i}") for i, tensors in enumerate(models)}
    sources |= {"base": TensorWeights(base, "base")} if base else {}
    recipe = Recipe(method=method, base="base" if base else None, models=[f"m{i}" for i in range(3)])
    merged = plan_merge(recipe, sources).weights()
    for name in TENSORS:
        whole = merged.read(name)
        torch.testing.assert_close(merged.read_rows(name, 2, 5), whole[2:5], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_whole_vector_surveys_do_not_depend_on_threads(method: str) -> None:
    base, models = drawn(0), [added(drawn(0), drawn(i, 0.1)) for i in (1, 2)]
    sources = {f"m{i}": TensorWeights(tensors, f"m{i}") for i, tensors in enumerate(models)}
    sources["base"] = TensorWeights(base, "base")
    plan = plan_merge(Recipe(method=method, base="base", models=["m0", "m1"], parameters={"rescale": "l1"}), sources)
    results = []
    for threads in (1, 4):
        computed = engine.Engine(plan)
        computed.prepare(threads)
        results.append({out.name: computed.tensor(out) for out in plan.layout.outputs})
    for name in TENSORS:
        assert torch.equal(results[0][name], results[1][name])


# ---------------------------------------------------------------------- NaN and infinity


@pytest.mark.parametrize("spoilt", ["base", "x"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_or_computed_with(
    spoilt: str, value: float, save_model: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    tensors = {"base": drawn(0), "x": added(drawn(0), drawn(1, 0.1))}
    tensors[spoilt][TENSORS[1]][2, 3] = value
    for name, model in tensors.items():
        save_model(name, model)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("genepool: 1\nmethod: task_arithmetic\nbase: base\nmodels: [x]\n")
    refused = cli("merge", recipe, tmp_path / "out")
    assert refused.code == 2
    assert refused.err.count("error: ") == 1
    assert f"{spoilt}:{TENSORS[1]}" in refused.err
    assert "--allow-nonfinite" in refused.err
    assert not list(tmp_path.glob("*out*"))
    assert cli("merge", recipe, tmp_path / "out", "--allow-nonfinite").code == 0
    from genepool.weights import open_weights

    written = open_weights(tmp_path / "out").read(TENSORS[1])
    assert not torch.isfinite(written[2, 3])
    assert int((~torch.isfinite(written)).sum()) == 1


def test_values_too_large_for_the_stored_type_are_refused() -> None:
    sources = {name: TensorWeights({"norm.weight": torch.full((4,), 5e4)}, name) for name in ("a", "b")}
    recipe = Recipe(method="linear", models=["a", "b"], parameters={"normalize": False}, dtype="float16")
    with pytest.raises(InputError, match="too large for float16"):
        plan_merge(recipe, sources).weights().read("norm.weight")


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("factor", ["1.0e+39", "3.4e+38"])
def test_results_too_large_for_their_type_are_refused_or_written(
    method: str, dtype: str, factor: str, save_model: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    """1e39 is no float32; 3.4e38 is one, and rounds to infinity as a bfloat16."""
    kind = getattr(torch, dtype)
    save_model("base", {"norm.weight": torch.zeros(4, dtype=kind)})
    save_model("x", {"norm.weight": torch.ones(4, dtype=kind)})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"genepool: 1\nmethod: {method}\nbase: base\nmodels: [x]\nparameters: {{lambda: {factor}}}\n")
    fits = dtype == "float32" and factor == "3.4e+38"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = cli("merge", recipe, tmp_path / "out", "--quiet")
        assert answer.code == (0 if fits else 2)
        assert fits or f"recipe.yaml:norm.weight: the merged values are too large for {dtype}" in answer.err
        assert (tmp_path / "out").exists() == fits
        assert cli("merge", recipe, tmp_path / "out", "--allow-nonfinite", "--overwrite", "--quiet").code == 0


def test_an_input_too_large_to_compute_with_is_named(
    save_model: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    for name, value in (("base", 0.0), ("x", 1e300)):
        save_model(name, {"norm.weight": torch.full((4,), value, dtype=torch.float64)})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("genepool: 1\nmethod: ties\nbase: base\nmodels: [x]\n")
    answer = cli("merge", recipe, tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert "x:norm.weight: holds NaN, infinity, or values too large for float32" in answer.err


# ---------------------------------------------------------------------- memory


def test_the_gate_lets_in_what_fits_and_the_largest_alone() -> None:
    gate, inside, most = MemoryGate(10), [0], [0]
    lock = threading.Lock()

    def work(size: int) -> None:
        with gate.held(size):
            with lock:
                inside[0] += size
                most[0] = max(most[0], inside[0] if size <= 10 else 0)
                assert inside[0] <= 10 or inside[0] == size
            with lock:
                inside[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (4, 4, 4, 25, 3, 9, 1, 25) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [0]
    assert 0 < most[0] <= 10


def test_the_plan_says_what_computing_takes() -> None:
    sources = {name: TensorWeights({"mlp.weight": torch.ones(2816, 1024)}, name) for name in ("base", "a", "b")}

    def peak(method: str) -> int:
        recipe = Recipe(method=method, base="base", models=["a", "b"])
        return int(plan_merge(recipe, sources).describe()["peak_bytes"])

    matrix = 4 * 2816 * 1024
    # Block by block for a sum, a whole matrix for its singular vectors.
    assert 2 * 4 * engine.BLOCK_ENTRIES <= peak("task_arithmetic") < matrix
    assert 3 * matrix <= peak("iso_c") <= 8 * matrix


@pytest.mark.parametrize("method", ["ties", "dare_ties", "pcb", "karcher"])
def test_surveys_of_many_small_tensors_at_a_time_find_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = _setting(method)
    together = merge(method, setting["base"], setting["models"], scope="model")
    monkeypatch.setattr(outputs, "BATCH_ENTRIES", 1)
    apart = merge(method, setting["base"], setting["models"], scope="model")
    for name, values in together.items():
        torch.testing.assert_close(apart[name], values, msg=name)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp"])
def test_doubles_are_summed_as_doubles(method: str, save_model: Callable[..., Path], cli: Callable[..., Any]) -> None:
    """1/3 and its like have no float32: the merge of equal models is that model, to the last bit."""
    scale = {"scale": torch.tensor([1 / 3, 1e-300, 2 / 7], dtype=torch.float64), "w": torch.ones(2, 2)}
    one, other = save_model("one", scale), save_model("other", scale)
    base = {} if method == "linear" else {"base": str(save_model("base", {**scale, "scale": scale["scale"] * 0.9}))}
    models = [str(one)] if method == "slerp" else [str(one), str(other)]
    recipe = one.parent / "recipe.yaml"
    weight = {"parameters": {"t": 1.0}} if method == "slerp" else {"parameters": {"weight": 0.5}}
    recipe.write_text(yaml.safe_dump({"genepool": 1, "method": method, "models": models, **base, **weight}))
    answer = cli("merge", recipe, one.parent / "out")
    assert answer.code == 0, answer.err
    merged = load_file(one.parent / "out" / "model.safetensors")["scale"]
    assert merged.dtype == torch.float64
    share = 0.3 if method == "task_arithmetic" else 1.0
    wanted = scale["scale"] * (0.9 + 0.1 * share)  # to its last bit or the one beside it
    assert torch.allclose(merged, wanted, rtol=4e-16 if method != "linear" else 0.0, atol=0.0)
