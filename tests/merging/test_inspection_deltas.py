"""What inspection says of changes: norms, cosines, sign conflicts, effective ranks, of adapters and skills too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inspected_models import moved, random_model, weights
from safetensors.torch import save_file

from genepool.merging import inspect_models
from genepool.merging.inspection import changes, task_vectors
from genepool.merging.inspection.effective_rank import SAMPLE, effective_rank, find_matrices, sample_matrices
from genepool.merging.matching import Headers
from genepool.skills import extract_skill
from genepool.weights import Checkpoint, TensorWeights, open_weights


def svd_effective_rank(matrix: torch.Tensor) -> float:
    """The definition, word for word."""
    values = torch.linalg.svdvals(matrix.double())
    shares = values / values.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


# ------------------------------------------------------------------ norms, cosines, signs


@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0, 0.9))
def test_sums_are_those_of_the_whole_vectors(seed: int, k: int, zeros: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = random_model(seed)
    models = []
    for i in range(k):
        change = random_model(seed + i + 1, scale=0.3)
        kept = {name: (torch.rand(value.shape, generator=generator) >= zeros) * value for name, value in change.items()}
        models.append(moved(base, kept))
    found = inspect_models(weights(base=base, **{f"m{i}": m for i, m in enumerate(models)}), ranks="none").deltas
    assert found is not None
    origin = torch.cat([value.reshape(-1) for value in base.values()])
    vectors = [(torch.cat([v.reshape(-1) for v in model.values()]) - origin).double() for model in models]
    assert found.parameters == origin.numel()
    for i, a in enumerate(vectors):
        assert found.relative()[i] == pytest.approx(float(a.norm() / origin.double().norm()), rel=1e-12)
        assert found.moved[i] == pytest.approx(float((a != 0).double().mean()))
        for j, b in enumerate(vectors):
            both = (a != 0) & (b != 0)
            conflicts = int(((a.sign() != b.sign()) & both).sum())
            assert found.sign_conflict[i][j] == (conflicts / int(both.sum()) if both.any() else None)
            scale = float(a.norm() * b.norm())
            expected = float(a @ b) / scale if scale else None
            assert found.cosine[i][j] == (None if expected is None else pytest.approx(expected, abs=1e-12))


@given(st.integers(0, 10**6))
def test_parts_and_layers_add_up(seed: int) -> None:
    base, change = random_model(seed), random_model(seed + 1)
    deltas = inspect_models(weights(base=base, tuned=moved(base, change)), ranks="none").deltas
    assert deltas is not None
    assert deltas.tensors == len(base)
    assert deltas.layers == [("model.layers", i) for i in range(3)]
    assert deltas.parts == ["attention", "mlp", "norm", "embedding"]
    name = "model.layers.1.self_attn"
    attention = [(moved(base, change)[n] - base[n]).double() for n in base if n.startswith(name)]
    stored = [base[n].double() for n in base if n.startswith(name)]
    expected = math.hypot(*(float(t.norm()) for t in attention)) / math.hypot(*(float(t.norm()) for t in stored))
    assert deltas.relative(layer=("model.layers", 1), part="attention")[0] == pytest.approx(expected, rel=1e-12)
    squares = math.fsum(cell.norms[0] ** 2 for cell in deltas.cells)
    assert deltas.relative()[0] == pytest.approx(
        math.sqrt(squares) / math.hypot(*(cell.base_norm for cell in deltas.cells)), rel=1e-12
    )


@pytest.mark.parametrize("block", [1, 17, 64, 10**6])
def test_where_blocks_end_does_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = random_model(0)
    models = weights(base=base, a=moved(base, random_model(1), 0.1), b=moved(base, random_model(2), 0.1))
    whole = inspect_models(models, ranks="none").deltas
    monkeypatch.setattr(changes, "BLOCK", block)
    monkeypatch.setattr(task_vectors, "_COUNTED", 5)
    blocks = inspect_models(models, ranks="none").deltas
    assert whole is not None
    assert blocks is not None
    assert blocks.sign_conflict == whole.sign_conflict
    assert blocks.moved == whole.moved
    assert blocks.cosine[0][1] == pytest.approx(whole.cosine[0][1], rel=1e-13)
    assert blocks.relative() == pytest.approx(whole.relative(), rel=1e-13)


def test_a_change_between_checkpoints_is_never_whole_in_memory(
    save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = random_model(0)
    paths = [save_model("base", base), save_model("tuned", moved(base, random_model(1)))]
    largest = max(value.numel() for value in base.values())

    def whole(*_: object) -> None:
        raise AssertionError("a whole tensor was read")

    sizes = []
    observe = task_vectors._Sums.observe

    def watching(self: Any, theirs: torch.Tensor, changes: torch.Tensor, places: torch.Tensor) -> None:
        sizes.append(changes.numel())
        observe(self, theirs, changes, places)

    monkeypatch.setattr(Checkpoint, "read", whole)
    monkeypatch.setattr(changes, "BLOCK", 10)
    monkeypatch.setattr(task_vectors._Sums, "observe", watching)
    assert inspect_models(paths, ranks="all").fits
    assert max(sizes) == 12 < largest, "blocks of one row, of which the longest has twelve entries"


def test_one_change_twice_as_far_and_turned_round() -> None:
    base, change = random_model(0), random_model(1)
    found = inspect_models(
        weights(base=base, once=moved(base, change), twice=moved(base, change, 2), back=moved(base, change, -1))
    ).deltas
    assert found is not None
    assert found.cosine[0] == pytest.approx((1, 1, -1), abs=1e-6)
    assert found.sign_conflict[0] == (0, 0, 1)
    assert found.relative()[1] == pytest.approx(2 * (found.relative()[0] or 0), rel=1e-6)


def test_worked_out_by_hand() -> None:
    base = {"w": torch.tensor([3.0, 4.0, 0.0, 0.0])}
    a = {"w": torch.tensor([4.0, 4.0, 1.0, 0.0])}
    b = {"w": torch.tensor([2.0, 4.0, 3.0, 1.0])}
    found = inspect_models(weights(base=base, a=a, b=b)).deltas
    assert found is not None
    # Changes (1, 0, 1, 0) and (-1, 0, 3, 1): both moved two entries, one of them apart.
    assert found.relative() == pytest.approx((math.sqrt(2) / 5, math.sqrt(11) / 5))
    assert found.moved == (0.5, 0.75)
    assert found.cosine[0][1] == pytest.approx(2 / math.sqrt(22))
    assert found.sign_conflict == ((0, 0.5), (0.5, 0))


def test_a_model_that_did_not_move_has_no_direction() -> None:
    base = random_model(0)
    found = inspect_models(weights(base=base, still=dict(base), tuned=moved(base, random_model(1))))
    assert found.deltas is not None
    assert found.deltas.cosine[0] == (None, None)
    assert found.deltas.sign_conflict[0] == (None, None)
    assert found.deltas.relative()[0] == 0
    assert found.ranks is not None
    assert found.ranks.mean(part="mlp")[0] is None
    assert "still does not differ from base where the two line up" in found.notes
    json.dumps(found.to_dict(), allow_nan=False)


# ------------------------------------------------------------------ effective rank


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.floats(1e-6, 1e6))
def test_effective_rank_is_the_definition_of_either_side(seed: int, rows: int, columns: int, scale: float) -> None:
    matrix = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    found = effective_rank(gram, max(rows, columns))
    assert found == pytest.approx(svd_effective_rank(matrix), rel=1e-5)
    assert found is not None
    assert 1 - 1e-9 <= found <= min(rows, columns) + 1e-9


def test_effective_rank_at_its_ends() -> None:
    assert effective_rank(torch.eye(5, dtype=torch.float64), 5) == pytest.approx(5)
    assert effective_rank(torch.ones(4, 4, dtype=torch.float64), 4) == pytest.approx(1, abs=1e-6)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64)), 2) == pytest.approx(expected)
    assert effective_rank(torch.zeros(3, 3, dtype=torch.float64), 3) is None
    assert effective_rank(torch.full((2, 2), float("nan"), dtype=torch.float64), 2) is None


def test_every_matrix_gets_its_own_rank() -> None:
    base, change = random_model(0), random_model(1)
    found = inspect_models(weights(base=base, tuned=moved(base, change)), ranks="all").ranks
    assert found is not None
    matrices = {name for name, value in base.items() if value.ndim == 2}
    assert {matrix.tensor for matrix in found.matrices} == matrices
    assert found.available == len(matrices)
    for matrix in found.matrices:
        delta = moved(base, change)[matrix.tensor] - base[matrix.tensor]
        assert matrix.values[0] == pytest.approx(svd_effective_rank(delta), rel=1e-5)
        assert matrix.side == min(delta.shape)


@pytest.mark.parametrize(("layers", "kinds"), [(1, 3), (5, 1), (40, 2), (40, 4), (7, 300)])
def test_a_sample_is_small_and_the_same_layers_for_every_part(layers: int, kinds: int) -> None:
    made = {f"model.layers.{i}.mlp.experts.{e}.weight": torch.zeros(2, 2) for i in range(layers) for e in range(kinds)}
    made |= {f"model.layers.{i}.self_attn.{kind}.weight": torch.zeros(2, 2) for i in range(layers) for kind in "qk"}
    made["model.embed_tokens.weight"] = torch.zeros(5, 2)
    sources = {"a": TensorWeights(made)}
    matrices = find_matrices(Headers(sources).fit(["a"]).matches, sources)
    assert len(matrices) == len(made)
    sample = sample_matrices(matrices)
    by_part: dict[str, list[Any]] = {}
    for matrix in sample:
        by_part.setdefault(matrix.match.role.part, []).append(matrix)
    assert set(by_part) == {"attention", "mlp"}
    assert all(0 < len(group) <= SAMPLE for group in by_part.values())
    first, second = ({matrix.match.role.layer for matrix in group} for group in by_part.values())
    assert first == second
    assert len(first) == 1 or {0, layers - 1} <= first


# ------------------------------------------------------------------ adapters and skills


def save_adapter(folder: Path, a: torch.Tensor, b: torch.Tensor, target: str) -> Path:
    folder.mkdir()
    prefix = f"base_model.model.{target.removesuffix('.weight')}"
    save_file({f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": a.shape[0], "lora_alpha": a.shape[0]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_is_its_exact_product(tmp_path: Path, save_model: Callable[..., Path]) -> None:
    base = {name: value.bfloat16() for name, value in random_model(0).items()}
    path = save_model("base", base)
    target = "model.layers.1.mlp.down_proj.weight"
    # So small that a sum in bfloat16 would not show it.
    a, b = 1e-3 * torch.randn(2, 12, generator=torch.Generator().manual_seed(5)), 1e-3 * torch.ones(8, 2)
    b[::2, 0] = -1e-3
    adapter = save_adapter(tmp_path / "lora", a, b, target)
    for models, origin in (([path, f"{path}+{adapter}"], None), ([adapter], path)):
        found = inspect_models(models, origin, ranks="all")
        assert found.fits
        assert found.base == str(path)
        assert found.deltas is not None
        product = (b @ a).double()
        norm = torch.cat([v.double().reshape(-1) for v in base.values()]).norm()
        assert found.deltas.relative()[0] == pytest.approx(float(product.norm() / norm), rel=1e-6)
        assert found.deltas.moved[0] == pytest.approx(product.numel() / found.deltas.parameters)
        ranks = {matrix.tensor: matrix.values[0] for matrix in found.ranks.matrices} if found.ranks else {}
        assert ranks.pop(target) == pytest.approx(svd_effective_rank(b @ a), rel=1e-4)
        assert set(ranks.values()) == {None}


def test_a_skill_file_alone_goes_on_the_base(tmp_path: Path, save_model: Callable[..., Path]) -> None:
    base = random_model(0)
    path, tuned = save_model("base", base), save_model("tuned", moved(base, random_model(1), 0.1))
    skill = extract_skill(open_weights(tuned), open_weights(path), tmp_path / "s.safetensors")
    found = inspect_models([tuned, skill], path, ranks="none").deltas
    assert found is not None
    assert found.cosine[0][1] == pytest.approx(1)
    assert found.relative()[0] == pytest.approx(found.relative()[1])
