"""Inspection of whole models: whether they fit together, what they are, how it is worded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inspected_models import moved, random_model, weights

from genepool.errors import InputError
from genepool.merging import inspect_models
from genepool.merging.inspection.wording import cosine_text, rank_text, relative_text, share_text, short_labels
from genepool.weights import TensorWeights

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
    json.dumps(found.to_dict(), allow_nan=False)


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
    assert problem.text.endswith("(2 in all)")
    assert [facts.tokenizer for facts in found.models] == [True, True, False]
    (paths[1] / "tokenizer.json").write_text("[]")
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
    bert = {"bert.embeddings.word_embeddings.weight": torch.ones(9, 8)}
    bert |= {"cls.predictions.transform.dense.weight": torch.zeros(8, 8), "cls.predictions.bias": torch.ones(9)}
    path = save_model("bert", bert, model_type="bert", architectures=["BertForMaskedLM"], tie_word_embeddings=True)
    assert inspect_models([path]).models[0].head == "tied"


def test_the_base_is_the_first_or_the_one_that_is_named() -> None:
    base = random_model(0)
    a, b, c = weights(a=base, b=moved(base, random_model(1)), c=moved(base, random_model(2)))
    assert inspect_models([a, b, c], ranks="none").base == "a"
    chosen = inspect_models([a, b, c], b, ranks="none")
    assert chosen.base == "b"
    assert [facts.name for facts in chosen.models] == ["b", "a", "c"]
    with pytest.raises(InputError, match="is named twice"):
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


def test_pickles_are_inspected_on_request(tmp_path: Path, cli: Callable[..., Any]) -> None:
    for name, seed in (("base", 0), ("tuned", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
        torch.save(moved(random_model(0), random_model(1), 0.01 * seed), tmp_path / name / "pytorch_model.bin")
    command = ["inspect", tmp_path / "base", tmp_path / "tuned", "--json", "--quiet"]
    refused = cli(*command)
    assert refused.code == 2
    assert "--allow-pickle" in refused.err
    shown = cli(*command, "--allow-pickle")
    assert shown.code == 0, shown.err
    assert len(json.loads(shown.out)["models"]) == 2
