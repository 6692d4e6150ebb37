"""What an inspection says of changes: against the definitions, on worked-out tensors, and on models of every shape."""

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
from safetensors.torch import save_file

from genepool.errors import InputError
from genepool.merging import inspect_models
from genepool.merging.inspection import changes, task_vectors
from genepool.merging.inspection.effective_rank import SAMPLE, effective_rank, find_matrices, sample_matrices
from genepool.merging.inspection.wording import cosine_text, rank_text, relative_text, share_text, short_labels
from genepool.merging.matching import Headers
from genepool.skills import extract_skill
from genepool.weights import Checkpoint, TensorWeights, open_weights

Tensors = dict[str, torch.Tensor]


def random_model(seed: int, layers: int = 3, scale: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (9, 8), "model.norm.weight": (8,)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.self_attn.{kind}_proj.weight": (8, 8) for kind in "qkvo"}
        shapes |= {f"model.layers.{i}.mlp.{kind}_proj.weight": (12, 8) for kind in ("gate", "up")}
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (8, 12)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def moved(base: Tensors, change: Tensors, by: float = 1.0) -> Tensors:
    return {name: value + by * change[name] if name in change else value for name, value in base.items()}


def weights(**models: Tensors) -> list[TensorWeights]:
    return [TensorWeights(made, name) for name, made in models.items()]


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
    json.dumps(found.as_dict(), allow_nan=False)


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


# ------------------------------------------------------------------ models of every shape


def test_encoders_decoders_pictures_and_experts_go_through() -> None:
    made: dict[str, torch.Tensor] = {
        "vit.embeddings.patch_embeddings.projection.weight": torch.randn(8, 3, 4, 4),
        "vit.embeddings.cls_token": torch.randn(1, 1, 8),
        "shared.weight": torch.randn(10, 8),
        "logit_scale": torch.tensor(2.6),
        "empty": torch.zeros(0, 8),
        "steps": torch.tensor([1, 2], dtype=torch.int64),
        "mask": torch.tensor([True, False]),
    }
    for stack in ("encoder", "decoder"):
        for i in range(3):
            made[f"{stack}.block.{i}.layer.0.SelfAttention.q.weight"] = torch.randn(8, 8)
            made[f"{stack}.block.{i}.layer.1.DenseReluDense.wi.weight"] = torch.randn(16, 8)
            made[f"{stack}.block.{i}.layer.2.experts.gate_up_proj"] = torch.randn(4, 8, 6)
    half = {n: v.half() if v.is_floating_point() else v for n, v in made.items()}
    found = inspect_models(weights(base=made, tuned=half), ranks="all")
    assert found.fits
    assert found.models[0].layers == {"decoder.block": 3, "encoder.block": 3} or found.models[0].layers == {
        "encoder.block": 3, "decoder.block": 3
    }  # fmt: skip
    assert found.deltas is not None
    assert found.deltas.tensors == len(made) - 2, "whole numbers and truth values have no difference"
    assert found.deltas.layers[0] == ("encoder.block", 0)
    assert found.deltas.layers[-1] == ("decoder.block", 2)
    assert found.ranks is not None
    names = {matrix.tensor: matrix.side for matrix in found.ranks.matrices}
    assert names["vit.embeddings.patch_embeddings.projection.weight"] == 8
    assert names["encoder.block.2.layer.2.experts.gate_up_proj[3]"] == 6
    assert "empty" not in names
    assert any(note.startswith("stored types differ") and note.endswith("the widest, F32") for note in found.notes)
    json.dumps(found.as_dict(), allow_nan=False)


# ------------------------------------------------------------------ what does not fit


def problems(*models: TensorWeights) -> list[tuple[str, str]]:
    return [(problem.kind, problem.text) for problem in inspect_models(models, ranks="none").problems]


def test_everything_that_does_not_fit_is_listed_at_once() -> None:
    base = random_model(0)
    other = moved(random_model(0, layers=5), random_model(1), 0.01)
    other["model.embed_tokens.weight"] = torch.ones(11, 8)
    other["model.layers.2.mlp.up_proj.weight"] = torch.ones(13, 8)
    del other["model.norm.weight"]
    other["model.layers.0.mlp.up_proj.weight"][3, 3] = float("inf")
    said = problems(*weights(base=base, tuned=other))
    assert [kind for kind, _ in said] == ["depth", "missing", "missing", "vocabulary", "shape", "non-finite"]
    texts = [text for _, text in said]
    assert texts[0] == "depths differ in model.layers: 3 layers in base, 5 layers in tuned"
    assert texts[1] == "tuned lacks the tensor model.norm.weight of base"
    assert texts[2].startswith("base lacks 14 tensors of tuned: model.layers.3.self_attn.q_proj.weight, ")
    assert texts[2].endswith(" and 11 more")
    assert texts[3] == "vocabularies differ in size: model.embed_tokens.weight is [9, 8] in base, [11, 8] in tuned"
    assert texts[4] == "shapes differ: model.layers.2.mlp.up_proj.weight is [12, 8] in base, [13, 8] in tuned"
    assert texts[5] == "tuned holds NaN or infinity in model.layers.0.mlp.up_proj.weight"


def test_what_lines_up_is_compared_all_the_same() -> None:
    base = random_model(0)
    tuned, sound = moved(base, random_model(1)), moved(base, random_model(2))
    tuned["model.norm.weight"] = torch.full((8,), float("nan"))
    tuned["model.embed_tokens.weight"] = torch.ones(11, 8)
    found = inspect_models(weights(base=base, tuned=tuned, sound=sound))
    shared = [name for name in base if "layers" in name]
    assert found.deltas is not None
    assert found.deltas.tensors == len(shared)
    reference = inspect_models(
        weights(**{
            name: {n: made[n] for n in shared} for name, made in (("base", base), ("tuned", tuned), ("sound", sound))
        })
    )  # fmt: skip
    assert found.deltas == reference.deltas
    assert found.models[1].non_finite == ("model.norm.weight",)
    assert found.models[2].non_finite == ()


def test_nothing_in_common_is_a_finding_too() -> None:
    found = inspect_models(weights(a={"x": torch.ones(2)}, b={"y": torch.ones(2)}))
    assert found.deltas is None
    assert found.ranks is None
    assert [problem.kind for problem in found.problems] == ["missing", "missing"]
    assert "no float tensor has one shape in all models: there are no changes to compare" in found.notes


def test_a_damaged_base_is_named_and_not_its_fine_tunes() -> None:
    base = random_model(0)
    tuned = moved(base, random_model(1))
    base["model.norm.weight"] = torch.full((8,), float("inf"))
    found = inspect_models(weights(base=base, tuned=tuned), ranks="none")
    assert [facts.non_finite for facts in found.models] == [("model.norm.weight",), ()]


def test_a_model_of_other_origin_is_recognised() -> None:
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.{}.self_attn.q_proj.weight"
    base, other = ({name.format(i): torch.randn(64, 64, generator=generator) for i in range(3)} for _ in range(2))
    tuned = {n: v + 0.01 * torch.randn(v.shape, generator=generator) for n, v in base.items()}
    said = problems(*weights(base=base, tuned=tuned, other=other))
    assert [kind for kind, _ in said] == ["origin"]
    assert said[0][1].startswith("other was not fine-tuned from base (cosine ")


def test_tokens_that_are_numbered_differently(save_model: Callable[..., Path]) -> None:
    base = random_model(0)
    paths = [save_model("base", base), save_model("tuned", base), save_model("bare", base)]
    for path, vocabulary in zip(paths, ({"a": 0, "b": 1, "c": 2}, {"a": 1, "b": 0, "c": 2}), strict=False):
        (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    found = inspect_models(paths, ranks="none")
    (problem,) = found.problems
    assert problem.kind == "vocabulary"
    assert "token 'a' is 0 in " in problem.text
    assert problem.text.endswith("(2 tokens in all)")
    assert [facts.tokenizer for facts in found.models] == [True, True, False]
    (paths[1] / "tokenizer.json").write_text("{}")
    assert [problem.kind for problem in inspect_models(paths, ranks="none").problems] == ["tokenizer"]


def test_quantised_models_are_said_to_be(save_model: Callable[..., Path]) -> None:
    base = random_model(0)
    eight = {name: value.to(torch.float8_e4m3fn) for name, value in base.items()}
    paths = [save_model("a", base), save_model("b", eight), save_model("c", base, quantization_config={"bits": 4})]
    found = inspect_models(paths, ranks="none")
    assert [facts.quantised for facts in found.models] == ["", "F8_E4M3", "quantised"]
    assert [problem.kind for problem in found.problems] == ["quantised", "quantised"]


# ------------------------------------------------------------------ one model, and which is the base


def test_the_facts_of_one_model(save_model: Callable[..., Path]) -> None:
    made = {**random_model(0), "model.steps": torch.tensor(7)}
    path = save_model("m", made, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)
    found = inspect_models([path])
    (facts,) = found.models
    assert (found.base, found.deltas, found.ranks, found.fits) == (None, None, None, True)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.tensors == len(made)
    assert facts.parameters == sum(value.numel() for value in made.values())
    assert facts.bytes == 4 * (facts.parameters - 1) + 8
    assert facts.dtypes == {"F32": len(made) - 1, "I64": 1}
    assert facts.layers == {"model.layers": 3}
    assert facts.parts["attention"] == (12, 12 * 64)
    assert facts.head == "tied"
    untied = {**made, "lm_head.weight": torch.zeros(9, 8)}
    assert inspect_models(weights(m=untied)).models[0].head == "own"
    assert inspect_models(weights(m=made)).models[0].head == "none"
    bert = {**made, "cls.predictions.transform.dense.weight": torch.zeros(8, 8), "cls.predictions.bias": torch.ones(9)}
    path = save_model("bert", bert, tie_word_embeddings=True)
    assert inspect_models([path]).models[0].head == "tied"


def test_the_base_is_the_first_or_the_one_that_is_named() -> None:
    base = random_model(0)
    a, b, c = weights(a=base, b=moved(base, random_model(1)), c=moved(base, random_model(2)))
    assert inspect_models([a, b, c], ranks="none").base == "a"
    chosen = inspect_models([a, b, c], b, ranks="none")
    assert chosen.base == "b"
    assert [facts.name for facts in chosen.models] == ["b", "a", "c"]
    with pytest.raises(InputError, match="named twice"):
        inspect_models([a, b, b])
    with pytest.raises(InputError, match="no model"):
        inspect_models([])


# ------------------------------------------------------------------ wording


def test_short_labels_tell_models_apart() -> None:
    assert short_labels(["bed/full/sort", "bed/full/upper/"]) == ["sort", "upper"]
    assert short_labels(["bed/base", "bed/full/sort", "bed/base+bed/lora/sort"]) == [
        "bed/base", "full/sort", "lora/sort"
    ]  # fmt: skip
    assert short_labels(["x+a/s", "y+a/s"]) == ["x+s", "y+s"]
    assert short_labels(["same", "same"]) == ["same", "same"]


@given(st.lists(st.text("ab/+", min_size=1), min_size=1, max_size=5, unique=True))
def test_short_labels_are_as_different_as_the_names(names: list[str]) -> None:
    assert len(set(short_labels(names))) == len(names)


def test_numbers_as_they_are_written() -> None:
    assert [relative_text(v) for v in (0.0308, 0.038, 1.4, 0.0, None)] == ["3.08%", "3.80%", "140%", "0%", "–"]
    assert [cosine_text(v) for v in (0.1234, -0.5, -0.0001, None)] == ["0.123", "−0.500", "0.000", "–"]
    assert [share_text(0.4421), rank_text(36.22), rank_text(None)] == ["44.2%", "36.2", "–"]
