"""Ours against the stored answers of mergekit: every golden recipe, the genomes of mergekit-evolve, and transplants.

The answers were written by the programs in tests/goldens/mergekit, which run mergekit. Differences are the largest of
any entry of any tensor, in float32.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from genepool.cli.main import run as genepool
from genepool.evolution.representations.mergekit_genome import MergekitGenomeOptions, MergekitSpace
from genepool.evolution.study import Study
from genepool.merging import Plan, load_recipe, plan_merge
from genepool.schema import validate
from genepool.weights import open_weights
from genepool.weights.vocabulary.reading import read_vocabulary

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens" / "mergekit"
#: Recipes with another answer here by design: refused, or with head and norm of all sources.
BY_DESIGN = {"quirk_chat_template", "quirk_linear_cancel", "quirk_unknown_keys", "slices_uneven_more"}
#: Recipes with `dtype: bfloat16`, in which mergekit computes and a last bit is far more than the rounding of float32.
IN_BFLOAT16 = {"dtype_bf16", "dtype_bf16_linear"}
#: Runs of mergekit-tokensurgeon -> the method here and its k.
TRANSPLANTS = {
    "omp of 1": ("omp", 1), "omp of 3": ("omp", 3), "omp of 8": ("omp", 8), "nearest 4": ("neighbours", 4),
    "subword": ("subword", 64), "mean": ("mean", 64), "zero": ("zero", 64),
}  # fmt: skip


def golden_inputs() -> ModuleType:
    """The module that makes the models of the goldens."""
    spec = importlib.util.spec_from_file_location("golden_inputs", GOLDENS / "inputs.py")
    assert spec is not None
    assert spec.loader is not None
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    return inputs


def comparable() -> Iterator[tuple[str, dict[str, Any]]]:
    """The recipes that both compute in float32, with what is stored of each answer."""
    answers: dict[str, dict[str, Any]] = json.loads((GOLDENS / "manifest.json").read_text())["recipes"]
    for name, answer in answers.items():
        if "error" not in answer and name not in BY_DESIGN and name not in IN_BFLOAT16:
            yield name, answer


def documents(name: str, inputs: ModuleType) -> list[dict[str, Any]]:
    """A golden recipe, its models called by their names."""
    text = (GOLDENS / "recipes" / f"{name}.yaml").read_text()
    return list(yaml.safe_load_all(inputs.filled(text, {model: Path(model) for model in inputs.MODELS})))


def recipe_difference(
    name: str, answer: dict[str, Any], models: dict[str, Path], place: Path, inputs: ModuleType
) -> float:
    """Between our merge of a golden recipe and the stored one.

    Args:
        name: the recipe.
        answer: what the manifest says of it.
        models: the folders of the models, by name.
        place: a working folder.
        inputs: the module that made the models.
    """
    file = place / f"{name}.yaml"
    file.write_text(inputs.filled((GOLDENS / "recipes" / f"{name}.yaml").read_text(), models))
    plan = plan_merge(load_recipe(file))
    merged = plan.weights()
    expected = load_file(GOLDENS / "outputs" / f"{answer['outputs']}.safetensors")
    if set(merged.names()) != set(expected):
        raise RuntimeError(f"{name}: other tensors than mergekit's")
    order = _order(plan, answer)
    worst = 0.0
    for tensor, value in expected.items():
        ours = merged.read(tensor)
        if order is not None and tensor in ("model.embed_tokens.weight", "lm_head.weight"):
            ours = ours[order]
        worst = max(worst, float((ours.float() - value.float()).abs().max()))
    return worst


def _order(plan: Plan, answer: dict[str, Any]) -> list[int] | None:
    """Our id of each of its tokens, padding behind them: its ids of new tokens change from run to run."""
    if "tokens" not in answer:
        return None
    ids = _ids(plan.tokenizer_folder)
    return [*(ids[token] for token in answer["tokens"].split("|")), *range(len(ids), answer["vocab_size"])]


def _ids(folder: Path | None) -> Mapping[str, int]:
    vocabulary = read_vocabulary(folder)
    assert vocabulary is not None
    return vocabulary.ids


def transplant_difference(run: str, models: dict[str, Path], out: Path) -> float:
    """Between the rows that we estimate and those that mergekit-tokensurgeon did.

    Args:
        run: one of `TRANSPLANTS`.
        models: the folders of the models, by name.
        out: the folder of the result.
    """
    told = json.loads((GOLDENS / "transplants.json").read_text())
    method, k = TRANSPLANTS[run]
    words = ["vocabulary", "transplant", models[told["model"]], "--tokenizer", models[told["donor"]], "--out", out]
    if genepool([*map(str, words), "--method", method, "--k", str(k), "--quiet"]):
        raise RuntimeError(f"genepool refused the transplant '{run}'")
    made = open_weights(str(out))
    ids = _ids(out)
    worst = 0.0
    for name, rows in told["runs"][run].items():
        for token, row in zip(told["lacking"], rows, strict=True):
            # It splits <call> and Z into unknown tokens; here these are left out, by design.
            if method != "subword" or token == "ab":
                worst = max(worst, float((made.read(name)[ids[token]] - torch.tensor(row)).abs().max()))
    return worst


def stored_genomes() -> dict[str, dict[str, Any]]:
    """What mergekit-evolve makes of a random genotype, by the name of the genome."""
    stored: dict[str, dict[str, Any]] = json.loads((GOLDENS / "evolve.json").read_text())["genomes"]
    return stored


def genome_difference(name: str) -> float:
    """Between the numbers of the recipe that a genotype becomes here and there."""
    told = stored_genomes()[name]
    genome = told["genome"]
    options = {key: value for key, value in genome.items() if key not in ("models", "base_model", "merge_method")}
    vary = MergekitGenomeOptions(kind="mergekit_genome", method=genome["merge_method"], **options)
    study = {"base": genome.get("base_model"), "skills": genome["models"], "vary": vary, "tasks": "tasks"}
    layers = json.loads((GOLDENS / "evolve.json").read_text())["layers"]
    space = MergekitSpace(validate(Study, {**study, "budget": {"evaluations": 1}}, "genome"), layers)
    point = (np.array(told["genotype"]) + vary.reach) / (2 * vary.reach)
    ours, theirs = (dict(_numbers(one)) for one in (space.as_mergekit(space.genome(point)), told["recipe"]))
    # It has no effect there either, and its slerp knows no normalisation.
    vain = {("parameters", "int8_mask")} | ({("parameters", "normalize")} if vary.method == "slerp" else set())
    theirs = {key: value for key, value in theirs.items() if key not in vain}
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"{name}: other values than mergekit's")
    return max(abs(value - theirs[key]) for key, value in ours.items())


def _numbers(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], float]]:
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(inner, (*place, key))
    elif isinstance(value, int | float):
        yield place, float(value)
